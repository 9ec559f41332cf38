"""Plain PyTorch: one network, settings chosen by hand. Compare with tabular_esgd.py.

``python tabular_plain.py wine`` learns another table; the third is breast_cancer.
"""

import torch
from example_name import example_name
from tabular_data import BATCH_SIZE, VARIANTS, load_examples


def main(name: str = "diabetes", *, n_epochs: int = 24) -> dict[str, float]:
    variant = VARIANTS[name]
    train, validation, test = load_examples(name)
    torch.manual_seed(0)
    model = variant.build_model()
    optimizer = torch.optim.Adam(model.parameters(), **variant.settings)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_epochs)
    for _ in range(n_epochs):
        for indices in torch.randperm(len(train[0])).split(BATCH_SIZE):
            optimizer.zero_grad()
            variant.loss(model(train[0][indices]), train[1][indices]).backward()
            optimizer.step()
        schedule.step()

    scores = {}
    model.eval()
    with torch.no_grad():
        for part, (inputs, targets) in {"validation": validation, "test": test}.items():
            scores[f"{part} loss"] = variant.loss(model(inputs), targets).item()
    return scores


if __name__ == "__main__":
    for what, value in main(example_name(VARIANTS, __doc__)).items():
        print(f"{what} {value:.4f}")
