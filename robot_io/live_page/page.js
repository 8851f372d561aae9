// Asks for the newest state ten times per second, and for each camera's next image once the last one is shown.
"use strict";
const byId = id => document.getElementById(id);
const sleep = ms => new Promise(wake => setTimeout(wake, ms));
const NAMES = {FOLLOW: "following", GIVE_WAY: "giving way", RETREAT: "retreating", HOLD: "holding"};

function element(parent, tag, className = "", text = "") {
  const child = document.createElement(tag);
  child.className = className;
  child.textContent = text;
  parent.append(child);
  return child;
}

function addJoint(name, [low, high]) {
  const row = element(byId("joints"), "div", "joint");
  row.dataset.joint = name;
  element(row, "span", "", name);
  const track = element(row, "div", "track");
  const marks = Object.fromEntries(["wanted", "sent", "is"].map(kind => [kind, element(track, "span", `mark ${kind}`)]));
  const number = element(row, "output", "", "–");
  const place = (kind, value) => {
    const share = Math.min(1, Math.max(0, (value - low) / (high - low)));
    marks[kind].style.left = `${100 * share}%`;
  };
  return (position, sent, wanted) => {
    place("is", position);
    place("sent", sent);
    place("wanted", wanted);
    number.textContent = position.toFixed(1);
  };
}

async function showCamera(name, number) {
  const figure = element(byId("cameras"), "figure");
  let image = element(figure, "img");
  element(figure, "figcaption", "", name);
  for (let count = 0; ; count++) {
    const next = new Image();
    next.alt = `image of the camera ${name}`;
    next.src = `image/${number}?${count}`;
    try {
      await next.decode();
      image.replaceWith(next);
      image = next;
    } catch {
      await sleep(500);
    }
    await sleep(100);
  }
}

function show(state, joints, rate) {
  const {episode, results, causes} = state;
  byId("instruction").textContent = episode.instruction || episode.task || "an episode";
  const judged = results.filter(result => result.success !== null);
  const successes = judged.filter(result => result.success).length;
  const number = results.length + (state.running ? 1 : 0);
  byId("episode").textContent = `episode ${number}` + (judged.length ? `, ${successes} of ${judged.length} succeeded` : "");
  const of = episode.seconds ? ` of ${episode.seconds.toFixed(0)}` : "";
  byId("clock").textContent = `· ${(state.ticks / rate).toFixed(1)}${of} s, tick ${state.ticks}`;
  const kind = !state.running ? "waiting" : state.intervention ? "takeover" : state.reaction;
  byId("reaction").className = `badge ${kind}`;
  byId("reaction").textContent = !state.running ? "between episodes" : state.intervention ? "a person steers" : NAMES[kind];
  if (state.position) joints.forEach((move, i) => move(state.position[i], state.sent[i], state.wanted[i]));
  byId("causes").replaceChildren();
  for (const [cause, {interventions, ticks}] of Object.entries(causes)) {
    const row = element(byId("causes"), "tr");
    [cause.replaceAll("_", " "), interventions, ticks].forEach(text => element(row, "td", "", text));
  }
  byId("results").replaceChildren();
  for (const result of results) {
    const kind = result.success === null ? "" : result.success ? "success" : "failure";
    const outcome = kind || "not judged";
    element(byId("results"), "li", kind, `${outcome}, ${result.seconds} s (${result.ended})`);
  }
}

async function main() {
  const plan = await (await fetch("plan")).json();
  const joints = Object.entries(plan.joints).map(([name, range]) => addJoint(name, range));
  plan.cameras.forEach(showCamera);
  for (;;) {
    try {
      const state = await (await fetch("state")).json();
      if (state.episode) show(state, joints, plan.rate_hz);
    } catch {
      byId("reaction").className = "badge lost";
      byId("reaction").textContent = "the run has ended";
    }
    await sleep(100);
  }
}

main();
