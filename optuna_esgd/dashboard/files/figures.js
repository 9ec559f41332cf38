// Draws Plotly figures in cards: when they come into view, and again when they change.

/* global Plotly */

const USUAL_HEIGHT = 430;
const TALL = 700;
const WIDE = new Set([
  "fitness-by-generation",
  "population-raster",
  "genealogy",
  "worker-timeline",
]);
// Where a finger both scrolls and draws, it scrolls.
const DRAG_MODE = window.matchMedia("(pointer: coarse)").matches ? false : "zoom";
const AXIS = /^([xy]axis[0-9]*)(?:\.|$)/;

export class Figures {
  #place;
  #cards = new Map();
  #openTrial = () => {};
  #observer;

  constructor(place) {
    this.#place = place;
    this.#observer = new IntersectionObserver((entries) => this.#see(entries), {
      rootMargin: "400px",
    });
  }

  show(figures, openTrial) {
    this.#openTrial = openTrial;
    for (const { name, opens_trials: opensTrials, figure } of figures) {
      const card = this.#cards.get(name) ?? this.#add(name, opensTrials);
      const text = JSON.stringify(figure);
      if (text !== card.text) {
        card.text = text;
        card.isDrawn = false;
        label(card, figure);
        this.#draw(card);
      }
    }
  }

  redraw() {
    for (const card of this.#cards.values()) {
      card.isDrawn = false;
      this.#draw(card);
    }
  }

  #add(name, opensTrials) {
    const section = document.createElement("section");
    section.className = WIDE.has(name) ? "card figure wide" : "card figure";
    section.id = name;
    const heading = document.createElement("h2");
    const plot = document.createElement("div");
    plot.className = "plot";
    plot.setAttribute("role", "img");
    section.append(heading, plot);
    this.#place.append(section);
    const card = {
      section,
      heading,
      plot,
      opensTrials,
      text: "",
      isDrawn: false,
      isSeen: false,
      nDrawn: 0,
      zoom: new Map(), // axis -> the range the reader chose
    };
    this.#cards.set(name, card);
    this.#observer.observe(section);
    return card;
  }

  #see(entries) {
    for (const entry of entries) {
      const card = this.#cards.get(entry.target.id);
      card.isSeen = entry.isIntersecting;
      this.#draw(card);
    }
  }

  #draw(card) {
    if (!card.isSeen || card.isDrawn || card.text === "") {
      return;
    }
    const figure = JSON.parse(card.text);
    card.isDrawn = true;
    card.nDrawn += 1;
    const layout = zoomed(themed(figure.layout), card);
    Plotly.react(card.plot, figure.data, layout, this.#configure(card));
    if (card.nDrawn === 1) {
      this.#listen(card);
    }
  }

  #configure(card) {
    const reset = {
      name: "whole",
      title: "Show everything",
      icon: Plotly.Icons.home,
      click: () => this.#showWhole(card),
    };
    return {
      responsive: true,
      displaylogo: false,
      doubleClick: false, // Plotly would go back to the ranges of its first drawing
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "resetScale2d"],
      modeBarButtonsToAdd: [reset],
    };
  }

  #listen(card) {
    const { plot } = card;
    plot.on("plotly_relayout", (event) => rememberZoom(card, event));
    plot.on("plotly_doubleclick", () => setTimeout(() => this.#showWhole(card)));
    if (!card.opensTrials) {
      return;
    }
    plot.on("plotly_click", (event) => {
      const trial = trialOf(event.points[0]);
      if (trial !== null) {
        this.#openTrial(trial);
      }
    });
    plot.on("plotly_hover", (event) => {
      plot.classList.toggle("opens", trialOf(event.points[0]) !== null);
    });
    plot.on("plotly_unhover", () => plot.classList.remove("opens"));
  }

  #showWhole(card) {
    card.zoom.clear();
    card.isDrawn = false;
    this.#draw(card);
  }
}

// Plotly keeps a zoom only while the range it replaced stays the same, and ours grow with the
// generations: so the page keeps it.
function rememberZoom(card, event) {
  for (const key of Object.keys(event)) {
    const axis = AXIS.exec(key)?.[1];
    if (axis !== undefined && key.startsWith(`${axis}.range`)) {
      card.zoom.set(axis, [...card.plot.layout[axis].range]);
    }
  }
}

function zoomed(layout, card) {
  for (const axis of Object.keys(layout).filter((key) => AXIS.test(key))) {
    // Another revision each time: what Plotly remembers of axes does not count.
    layout[axis] = { ...layout[axis], uirevision: card.nDrawn };
    if (card.zoom.has(axis)) {
      layout[axis].range = [...card.zoom.get(axis)];
      layout[axis].autorange = false;
    }
  }
  return layout;
}

function label(card, figure) {
  const title = figure.layout.title?.text ?? card.section.id;
  card.heading.textContent = title;
  card.plot.setAttribute("aria-label", `${title} (a plot)`);
  const height = figure.layout.height ?? USUAL_HEIGHT;
  card.plot.style.height = `${height}px`;
  card.section.classList.toggle("tall", height > TALL);
}

// The number of the trial, or a row that begins with it; -1 stands for none.
function trialOf(point) {
  let found = point.customdata;
  if (found !== null && typeof found === "object") {
    found = found[0];
  }
  return Number.isInteger(found) && found >= 0 ? found : null;
}

// The page's colours as a Plotly template: what a figure says of itself stays.
function themed(layout) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = {
    gridcolor: colour("--grid"),
    zerolinecolor: colour("--grid"),
    linecolor: colour("--line"),
    tickcolor: colour("--line"),
  };
  return {
    ...layout,
    title: undefined, // it is the card's heading, which can wrap
    height: undefined,
    autosize: true,
    dragmode: DRAG_MODE,
    uirevision: "as the reader left it",
    margin: { ...layout.margin, t: 36 },
    template: {
      layout: {
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { color: colour("--text"), family: style.fontFamily, size: 12 },
        xaxis: axis,
        yaxis: { ...axis, automargin: true, title: { standoff: 6 } },
        legend: { bgcolor: "rgba(0,0,0,0)" },
        hoverlabel: {
          bgcolor: colour("--card"),
          bordercolor: colour("--line"),
          font: { color: colour("--text") },
        },
        modebar: {
          bgcolor: "rgba(0,0,0,0)",
          color: colour("--faint"),
          activecolor: colour("--text"),
        },
      },
    },
  };
}
