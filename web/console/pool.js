// The first view: how the pool is, its nodes and what is done with them.

import { get, readiness } from "./api.js";
import { count, element, span, write } from "./elements.js";
import { WORDS, offered, operate } from "./operations.js";
import { Progress } from "./progress.js";
import { Table } from "./tables.js";
import { Tokens, addNode } from "./tokens.js";

const STANDINGS = {
  "in-touch": ["in touch", "good"],
  "no-quorum": ["no quorum", "bad"],
  "no-logins": ["takes no logins", "bad"],
  "cut-off": ["cut off", "bad"],
  draining: ["draining", "warn"],
  stopping: ["stopping", "warn"],
};

function stateOf(node) {
  return node.leaves && !["leaving", "removed"].includes(node.state) ? `${node.state}, leaves` : node.state;
}

export class PoolView {
  constructor(session) {
    this.session = session;
    this.facts = new Map();
    this.progress = new Progress(() => this.update().catch(() => {}));
    this.cards = element("dl", { class: "cards" });
    this.nodes = new Table("Nodes of the pool, as this node sees them", this.columns(), { empty: "No node is known yet." });
    const add = element("button", { type: "button", class: "main", text: "Add a node", on: { click: () => addNode(() => this.tokens.update().catch(() => {})) } });
    this.tokens = session.mayInspect ? new Tokens(session) : null;
    this.element = element("section", { "aria-labelledby": "pool-title" },
      element("h2", { id: "pool-title", tabIndex: -1, text: "Pool" }),
      this.cards,
      this.progress.element,
      element("section", { class: "sheet", "aria-labelledby": "nodes-title" },
        element("div", { class: "head" }, element("h3", { id: "nodes-title", text: "Nodes" }), session.mayOperate ? add : null),
        this.nodes.element),
      this.tokens?.element);
  }

  columns() {
    const columns = [
      { head: "Node", text: ({ node, own }) => (node.id === own ? `${node.id} (this one)` : String(node.id)) },
      { head: "Address", text: ({ node }) => node.address, wrap: true },
      { head: "State", text: ({ node }) => stateOf(node), tone: ({ node }) => (node.state === "member" ? "" : "warn") },
      {
        head: "Alive",
        text: ({ node, member }) => (node.state === "removed" ? "–" : node.alive ? STANDINGS[member?.standing]?.[0] ?? "yes" : "not heard of"),
        tone: ({ node, member }) => (node.state === "removed" ? "" : node.alive ? STANDINGS[member?.standing]?.[1] ?? "good" : "bad"),
      },
      { head: "Replicas", number: true, text: ({ node }) => count(node.replicas) },
      { head: "Owns", number: true, text: ({ node }) => count(node.owns) },
      { head: "Sessions", number: true, text: ({ node }) => count(node.sessions) },
    ];
    if (!this.session.mayOperate) return columns;
    return [...columns, {
      head: "Actions",
      state: ({ node }) => offered(node),
      build: ({ node }) => {
        const buttons = offered(node).map((kind) => element("button", {
          type: "button",
          class: kind === "remove" ? "grave" : "",
          text: WORDS[kind],
          "aria-label": `${WORDS[kind]}: node ${node.id}`,
          "data-action": `${kind}-${node.id}`,
          on: { click: () => operate(node.id, kind, () => this.progress.follow()) },
        }));
        return buttons.length === 0 ? null : element("div", { class: "row" }, ...buttons);
      },
    }];
  }

  fact(name, text, tone = "") {
    let place = this.facts.get(name);
    if (place === undefined) {
      place = element("dd");
      this.facts.set(name, place);
      this.cards.append(element("div", {}, element("dt", { text: name }), place));
    }
    write(place, text);
    place.className = [tone, text.length > 14 ? "long" : ""].join(" ").trim();
  }

  async update() {
    const [status, { nodes }, unready] = await Promise.all([get("/v1/status"), get("/v1/nodes"), readiness()]);
    const own = status.members.find((member) => member.id === status.node);
    const present = nodes.filter((node) => node.state !== "removed");
    const connected = status.members.filter((member) => member.connected).length;
    const owned = status.partitions.filter((partition) => partition.owner !== null).length;
    const known = present.filter((node) => node.sessions !== null);
    const quorum = ["in-touch", "draining", "stopping"].includes(own?.standing);
    this.fact("This node", unready === null ? "serves" : unready, unready === null ? "good" : "bad");
    this.fact("Quorum", quorum ? "yes" : "no", quorum ? "good" : "bad");
    this.fact("Nodes connected", `${connected} of ${status.members.length}`, connected === status.members.length ? "" : "warn");
    this.fact("Partitions owned", `${owned} of ${status.partitions.length}`, owned === status.partitions.length ? "" : "bad");
    this.fact("Sessions, all nodes", count(known.reduce((sum, node) => sum + node.sessions, 0)));
    this.fact("Version, running for", `${status.version}, ${span(status.uptime_s)}`);
    const members = new Map(status.members.map((member) => [member.id, member]));
    const rows = nodes.map((node) => ({ node, own: status.node, member: members.get(node.id) }));
    this.nodes.show(rows, ({ node }) => node.id);
    await Promise.all([this.progress.look(), this.tokens?.update()]);
  }

  leave() {
    this.progress.stop();
  }
}
