// What is under way, live: server-sent events, a bar, and a few words now and then for who can't see it.

import { get } from "./api.js";
import { announce, count, element, list, write } from "./elements.js";

/** No more often than this is progress read out. */
const SAID_EVERY_MS = 5_000;

/** After a lost connection. */
const AGAIN_MS = 3_000;

function words(progress) {
  const parts = progress.under_way.map(({ node, state }) => `node ${node} is ${state}`);
  const add = (number, one, many) => {
    if (number) parts.push(`${count(number)} ${number === 1 ? one : many}`);
  };
  add(progress.sessions_left, "session left", "sessions left");
  add(progress.leaders_left, "partition to hand over", "partitions to hand over");
  add(progress.groups_to_move, "group to move", "groups to move");
  add(progress.entries_behind, "log entry to catch up", "log entries to catch up");
  const text = list(parts);
  return text === "" ? "" : `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
}

// Figures of other nodes are some seconds old; that it is done is not.
const left = (progress) =>
  progress.done ? 0 : progress.groups_to_move + progress.leaders_left + (progress.sessions_left ?? 0);

/** The part of the page that shows it; hidden while there is nothing to show. */
export class Progress {
  constructor(changed) {
    this.changed = changed;
    this.text = element("p", { id: "progress-text" });
    this.bar = element("progress", { "aria-labelledby": "progress-title", "aria-describedby": "progress-text" });
    this.element = element("section", { class: "sheet", "aria-labelledby": "progress-title", hidden: true },
      element("h3", { id: "progress-title", text: "Under way" }), this.bar, this.text);
    this.most = 0;
    this.saidAt = -Infinity;
    this.source = null;
    this.state = "";
  }

  /** Looks once, and follows if something is under way. */
  async look() {
    if (this.source !== null) return;
    const progress = await get("/v1/progress");
    if (!progress.done && this.source === null) this.follow();
  }

  /** Follows until nothing is under way. */
  follow() {
    this.stop();
    const source = new EventSource("/v1/progress/events");
    this.source = source;
    source.addEventListener("progress", (event) => this.show(JSON.parse(event.data)));
    source.addEventListener("error", () => {
      // Also how a stream ends: look again, which says when nobody is signed in any more.
      if (this.source !== source) return;
      this.stop();
      this.timer = setTimeout(() => this.look().catch(() => {}), AGAIN_MS);
    });
  }

  stop() {
    this.source?.close();
    this.source = null;
    clearTimeout(this.timer);
  }

  show(progress) {
    const text = progress.done ? "Done: nothing is under way." : words(progress);
    this.most = Math.max(this.most, left(progress));
    write(this.text, text);
    if (this.most > 0) {
      this.bar.max = this.most;
      this.bar.value = this.most - left(progress);
    } else {
      this.bar.removeAttribute("value");
    }
    this.element.hidden = false;
    const state = JSON.stringify(progress.under_way);
    const now = performance.now();
    if (progress.done || state !== this.state || now - this.saidAt > SAID_EVERY_MS) {
      announce(text);
      this.saidAt = now;
    }
    if (state !== this.state) this.changed();
    this.state = state;
    if (progress.done) {
      this.stop();
      this.bar.max = 1;
      this.bar.value = 1;
      this.most = 0;
      this.state = "";
      this.changed();
    }
  }
}
