"""Plain PyTorch: one network, settings chosen by hand. Compare with speech_esgd.py.

``python speech_plain.py lstm`` reads whole utterances instead of frames.
"""

import torch
from example_name import example_name
from speech_data import VARIANTS, error_rate
from torch import nn


def main(name: str = "dnn", *, n_epochs: int = 24) -> dict[str, float]:
    variant = VARIANTS[name]
    train, validation, test = variant.load_examples(0)
    torch.manual_seed(0)
    model = variant.build_model()
    optimizer = torch.optim.Adam(model.parameters(), **variant.settings)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_epochs)
    for _ in range(n_epochs):
        for indices in torch.randperm(len(train[0])).split(variant.batch_size):
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
