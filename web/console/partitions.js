// Partitions: who owns each, and how far this node's replica has come.

import { get } from "./api.js";
import { count, element } from "./elements.js";
import { Table } from "./tables.js";

export class PartitionsView {
  constructor() {
    this.owners = new Table("Partitions that each node owns", [
      { head: "Node", text: (row) => row.node },
      { head: "Partitions", number: true, text: (row) => count(row.partitions.length) },
      { head: "Which", text: (row) => row.partitions.join(", "), wrap: true },
    ]);
    this.table = new Table("Partitions, as this node sees them", [
      { head: "Partition", text: (row) => String(row.id) },
      { head: "Owner", text: (row) => (row.owner === null ? "nobody" : `node ${row.owner}`), tone: (row) => (row.owner === null ? "bad" : "") },
      { head: "Leader", text: (row) => (row.leader === null ? "nobody" : `node ${row.leader}`), tone: (row) => (row.leader === null ? "bad" : "") },
      { head: "Voters", text: (row) => row.voters.join(", ") },
      { head: "Epoch", number: true, text: (row) => count(row.epoch) },
      { head: "Term", number: true, text: (row) => count(row.term) },
      { head: "Committed", number: true, text: (row) => count(row.committed) },
      { head: "Applied", number: true, text: (row) => count(row.applied) },
      { head: "Replica here", text: (row) => (row.quarantined ? "damaged, gives no vote" : "good"), tone: (row) => (row.quarantined ? "bad" : "") },
    ]);
    this.element = element("section", { "aria-labelledby": "partitions-title" },
      element("h2", { id: "partitions-title", tabIndex: -1, text: "Partitions" }),
      element("div", { class: "sheet" }, this.owners.element),
      element("div", { class: "sheet" }, this.table.element));
  }

  async update() {
    const partitions = await get("/v1/partitions");
    const owners = new Map();
    for (const { id, owner } of partitions) owners.set(owner, [...(owners.get(owner) ?? []), id]);
    const rows = [...owners].map(([owner, owned]) => ({
      node: owner === null ? "nobody" : `node ${owner}`,
      partitions: owned,
    }));
    rows.sort((a, b) => a.node.localeCompare(b.node, "en", { numeric: true }));
    this.owners.show(rows, (row) => row.node);
    this.table.show(partitions, (partition) => partition.id);
  }
}
