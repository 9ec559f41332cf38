"""Plain PyTorch: one network, settings chosen by hand. Compare with language_esgd.py.

``python language_plain.py transformer`` trains a small transformer instead of an LSTM.
"""

import torch
from example_name import example_name
from language_data import BATCH_SIZE, VARIANTS, cross_entropy, load_examples, perplexity


def main(name: str = "lstm", *, n_epochs: int = 24) -> dict[str, float]:
    variant = VARIANTS[name]
    train, validation, test = load_examples()
    torch.manual_seed(0)
    model = variant.build_model()
    optimizer = torch.optim.Adam(model.parameters(), **variant.settings)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_epochs)
    for _ in range(n_epochs):
        for indices in torch.randperm(len(train[0])).split(BATCH_SIZE):
            optimizer.zero_grad()
            cross_entropy(model(train[0][indices]), train[1][indices]).backward()
            optimizer.step()
        schedule.step()

    scores: dict[str, float] = {}
    model.eval()
    with torch.no_grad():
        for part, (inputs, targets) in {"validation": validation, "test": test}.items():
            loss = cross_entropy(model(inputs), targets).item()
            scores |= {f"{part} loss": loss, f"{part} perplexity": perplexity(loss)}
    return scores


if __name__ == "__main__":
    for what, value in main(example_name(VARIANTS, __doc__)).items():
        print(f"{what} {value:.4f}")
