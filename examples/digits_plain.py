"""Plain PyTorch: one network, settings chosen by hand. Compare with digits_esgd.py.

``python digits_plain.py noisy_cnn`` trains another network, or on labels of which 30 % are wrong.
"""

import torch
from digits_data import BATCH_SIZE, VARIANTS, error_rate, load_examples
from example_name import example_name
from torch import nn


def main(name: str = "mlp", *, n_epochs: int = 24) -> dict[str, float]:
    variant = VARIANTS[name]
    train, validation, test = load_examples(label_noise=variant.label_noise)
    torch.manual_seed(0)
    model = variant.build_model()
    optimizer = torch.optim.SGD(model.parameters(), **variant.settings)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_epochs)
    for _ in range(n_epochs):
        for indices in torch.randperm(len(train[0])).split(BATCH_SIZE):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(train[0][indices]), train[1][indices])
            loss.backward()
            optimizer.step()
        schedule.step()

    scores = {}
    model.eval()
    with torch.no_grad():
        for part, (inputs, targets) in {"validation": validation, "test": test}.items():
            outputs = model(inputs)
            scores[f"{part} loss"] = nn.functional.cross_entropy(outputs, targets).item()
            scores[f"{part} error"] = error_rate(outputs, targets).item()
    return scores


if __name__ == "__main__":
    for what, value in main(example_name(VARIANTS, __doc__)).items():
        print(f"{what} {value:.4f}")
