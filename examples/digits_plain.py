"""Plain PyTorch: one network, settings chosen by hand. Compare with digits_esgd.py."""

import torch
from digits_data import build_model, error_rate, load_examples
from torch import nn

N_EPOCHS = 32
BATCH_SIZE = 32

train, validation, test = load_examples()
torch.manual_seed(0)
model = build_model()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for _ in range(N_EPOCHS):
    for indices in torch.randperm(len(train[0])).split(BATCH_SIZE):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(train[0][indices]), train[1][indices])
        loss.backward()
        optimizer.step()

model.eval()
with torch.no_grad():
    for name, (inputs, targets) in {"validation": validation, "test": test}.items():
        outputs = model(inputs)
        loss = nn.functional.cross_entropy(outputs, targets)
        print(f"{name}: loss {loss:.4f}, error {error_rate(outputs, targets):.2%}")
