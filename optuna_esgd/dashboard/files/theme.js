// Light or dark: as the browser says, or as chosen here and remembered. Runs before anything is
// painted, so that no page flashes in the wrong colours.
"use strict";

(() => {
  const KEY = "esgd-theme";
  const CHOICES = ["auto", "light", "dark"];
  const LABELS = { auto: "Theme: auto", light: "Theme: light", dark: "Theme: dark" };
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  let choice = "auto";

  function remembered() {
    try {
      const found = localStorage.getItem(KEY);
      return CHOICES.includes(found) ? found : "auto";
    } catch {
      return "auto"; // storage may be switched off
    }
  }

  function remember() {
    try {
      localStorage.setItem(KEY, choice);
    } catch {
      // then it lasts as long as the page
    }
  }

  function show() {
    const isDark = choice === "dark" || (choice === "auto" && prefersDark.matches);
    document.documentElement.dataset.theme = isDark ? "dark" : "light";
    const button = document.getElementById("theme");
    if (button) {
      button.textContent = LABELS[choice];
    }
    document.dispatchEvent(new Event("themechange"));
  }

  choice = remembered();
  show();
  prefersDark.addEventListener("change", show);
  window.addEventListener("storage", (event) => {
    if (event.key === KEY) {
      choice = remembered();
      show();
    }
  });
  document.addEventListener("DOMContentLoaded", () => {
    show();
    document.getElementById("theme").addEventListener("click", () => {
      choice = CHOICES[(CHOICES.indexOf(choice) + 1) % CHOICES.length];
      remember();
      show();
    });
  });
})();
