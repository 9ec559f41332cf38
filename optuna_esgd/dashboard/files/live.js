// Asks for the study's state again and again, and shows what changed.

import { Figures } from "./figures.js";
import { showIndividuals, showNumbers } from "./tables.js";

const POLL_MILLISECONDS = 2000;
const LONGEST_PAUSE_MILLISECONDS = 30000;

const { study, studyId } = document.body.dataset;
const address = `/esgd-api/state?study=${encodeURIComponent(study)}`;
const figures = new Figures(document.getElementById("figures"));
const status = document.getElementById("status");
const problem = document.getElementById("problem");

let tag = null;
let nFailures = 0;
let timer = null;
let currentId = studyId;

function openTrial(number) {
  window.open(trialAddress(number), "_blank", "noopener");
}

function trialAddress(number) {
  return `/dashboard/studies/${currentId}/trials?numbers=${number}`;
}

function weightsAddress(reference) {
  const query = new URLSearchParams({ study, individual: reference });
  return `/esgd-api/weights?${query}`;
}

function show(state) {
  currentId = state.study.id;
  document.getElementById("direction").textContent = `${state.study.direction} · `;
  showNumbers(document.getElementById("numbers"), state.numbers, trialAddress);
  showIndividuals(
    document.getElementById("individuals"),
    document.getElementById("told"),
    state.individuals,
    trialAddress,
    weightsAddress,
  );
  figures.show(state.figures, openTrial);
}

function tellStatus(kind, text) {
  status.dataset.kind = kind;
  if (status.textContent !== text) {
    status.textContent = text;
  }
}

function tellProblem(text) {
  problem.hidden = text === "";
  problem.textContent = text;
}

async function read() {
  const headers = tag === null ? {} : { "If-None-Match": tag };
  // Without the browser's own cache, which would turn "not modified" into the whole answer.
  const response = await fetch(address, { headers, cache: "no-store" });
  if (response.status === 304) {
    return;
  }
  if (!response.ok) {
    const answer = await response.json().catch(() => ({}));
    throw new Error(answer.reason ?? `The server answered ${response.status}.`);
  }
  const state = await response.json();
  show(state);
  tag = response.headers.get("ETag");
  const now = new Date();
  document.body.dataset.shown = tag;
  status.title = `Last change seen at ${now.toLocaleString()}`;
  tellStatus("live", `Changed ${now.toLocaleTimeString()}`);
}

async function poll() {
  try {
    await read();
    if (nFailures > 0) {
      tellStatus("live", "Connected again");
    }
    nFailures = 0;
    tellProblem("");
  } catch (error) {
    nFailures += 1;
    tellStatus("lost", "Trying again");
    tellProblem(error instanceof TypeError ? "The server does not answer." : error.message);
  }
  schedule();
}

function schedule() {
  clearTimeout(timer);
  if (!document.hidden) {
    const pause = POLL_MILLISECONDS * 2 ** Math.min(nFailures, 5);
    timer = setTimeout(poll, Math.min(pause, LONGEST_PAUSE_MILLISECONDS));
  }
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (!document.hidden) {
    poll();
  }
});
document.addEventListener("themechange", () => figures.redraw());

poll();
