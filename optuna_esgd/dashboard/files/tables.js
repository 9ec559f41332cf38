// Key numbers and the table of individuals. Names come from people: they go in as text only.

export function showNumbers(place, numbers, trialAddress) {
  const ancestor = numbers.common_ancestor;
  const entries = [
    { name: "Individuals", value: numbers.n_individuals.toLocaleString() },
    { name: "Generation", value: numbers.generation ?? "–" },
    {
      name: "Best value",
      value: shorten(numbers.best_value),
      trial: numbers.best_trial,
      label: "best trial",
    },
    {
      name: "Common ancestor",
      value: ancestor ? `generation ${ancestor.generation}` : "none yet",
      trial: ancestor?.trial,
      label: "trial",
    },
    { name: "Effective founders", value: rounded(numbers.effective_founders) },
    { name: "Back-off rate", value: percent(numbers.back_off_rate) },
  ];
  place.replaceChildren(
    ...entries.map(({ name, value, trial, label }) => {
      const entry = element("div", { className: "card number" });
      const shown = element("dd", { textContent: value });
      if (Number.isInteger(trial)) {
        shown.append(trialLink(trial, trialAddress, `${label} ${trial}`));
      }
      entry.append(element("dt", { textContent: name }), shown);
      return entry;
    }),
  );
}

export function showIndividuals(place, told, individuals, trialAddress, weightsAddress) {
  const { n_stored: nStored, rows } = individuals;
  const who =
    nStored > rows.length
      ? `The ${rows.length} best of ${nStored} individuals whose weights are stored.`
      : "Everyone whose weights are stored, best first.";
  told.textContent = `${who} Offspring that have not trained yet have no trial.`;
  const focused = place.contains(document.activeElement) ? document.activeElement.href : null;
  place.replaceChildren(
    ...rows.map((one) => {
      const row = document.createElement("tr");
      const first = element("th", { scope: "row" });
      first.append(
        one.trial === null ? "–" : trialLink(one.trial, trialAddress, String(one.trial)),
      );
      const weights = document.createElement("td");
      weights.append(
        element("a", {
          href: weightsAddress(one.reference),
          textContent: "Download",
          ariaLabel: `Download the weights of individual ${one.reference}`,
          download: "",
        }),
      );
      const value = element("td", {
        textContent: one.value === null ? "diverged" : shorten(one.value),
      });
      const texts = [
        one.reference,
        one.birth,
        one.species,
        describe(one.hyperparameters),
        one.n_back_offs,
      ];
      const cells = texts.map((text) => element("td", { textContent: text }));
      cells[3].className = "long";
      row.append(first, value, weights, ...cells);
      return row;
    }),
  );
  // Rows are new elements: whoever was on a link with the keyboard stays on it.
  if (focused !== null) {
    [...place.querySelectorAll("a")].find((link) => link.href === focused)?.focus();
  }
}

function element(name, properties) {
  return Object.assign(document.createElement(name), properties);
}

function trialLink(number, trialAddress, text) {
  return element("a", { href: trialAddress(number), target: "_blank", textContent: text });
}

function describe(hyperparameters) {
  return Object.entries(hyperparameters)
    .map(([name, value]) => `${name} ${typeof value === "number" ? short(value, 4) : (value ?? "None")}`)
    .join(", ");
}

function short(number, digits) {
  return String(Number(number.toPrecision(digits)));
}

function shorten(number) {
  return number === null ? "–" : short(number, 5);
}

function rounded(number) {
  return number === null ? "–" : number.toFixed(2);
}

function percent(part) {
  return part === null ? "–" : `${(100 * part).toFixed(part < 0.1 ? 1 : 0)} %`;
}
