// What is done with nodes: a dialog with the node's own plan, and nothing before somebody has said yes.

import { ask } from "./api.js";
import { element, list, trouble, write } from "./elements.js";

/** A step of a plan, as a sentence; the words of `muster ctl`. */
function sentence(step) {
  const of = (group) => (group === 0 ? "Meta group" : `Partition ${group - 1}`);
  switch (step.step) {
    case "join": return `Node ${step.node} joins and catches up.`;
    case "hand-over": return `Node ${step.node} hands over what it leads, ${step.groups} groups at most.`;
    case "move-sessions": return `The sessions of node ${step.node} move to other nodes.`;
    case "serve": return `Node ${step.node} serves again.`;
    case "move-replica": return `${of(step.group)}: voters ${list(step.from.map(String))} become ${list(step.to.map(String))}.`;
    case "remove": return `Node ${step.node} leaves the pool for good.`;
    default: return step.step;
  }
}

const KINDS = {
  drain: {
    title: (node) => `Drain node ${node}?`,
    about: "It hands over what it leads, takes no logins and moves its sessions to other nodes. It keeps its replicas, and can be taken back.",
    yes: (node) => `Drain node ${node}`,
  },
  undrain: {
    title: (node) => `Take node ${node} back?`,
    about: "It takes logins again, and leads its share of the partitions.",
    yes: (node) => `Take node ${node} back`,
  },
  remove: {
    title: (node) => `Remove node ${node} for good?`,
    about: "It is drained, its replicas move to other nodes, and it ends. Its id is never used again: this can't be taken back once it is done.",
    yes: (node) => `Remove node ${node} for good`,
    grave: true,
  },
};

/** Shows a dialog, and takes it away when it is closed; focus goes back to where it was, or to the content. */
export function showDialog(title, form) {
  const heading = element("h2", { id: "dialog-title", text: title });
  form.prepend(heading);
  const dialog = element("dialog", { "aria-labelledby": "dialog-title" }, form);
  const before = document.activeElement;
  dialog.addEventListener("close", () => {
    dialog.remove();
    (before && before.isConnected ? before : document.getElementById("main")).focus();
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Asks about an operation; calls `begun` once the node has begun it. */
export function operate(node, kind, begun) {
  const { title, about, yes, grave } = KINDS[kind];
  const steps = element("ol", { tabIndex: 0, "aria-label": "Plan" });
  const planned = element("p", { class: "quiet", role: "status", text: "The node is asked for its plan …" });
  const problem = element("p", { class: "trouble", role: "alert", hidden: true });
  const confirm = element("button", { type: "submit", class: grave ? "grave" : "main", text: yes(node), disabled: true });
  const cancel = element("button", { type: "button", text: "Cancel" });
  const pace = element("input", { type: "number", min: 1, max: 1000000, step: 1, inputMode: "numeric" });
  const dead = element("input", { type: "checkbox" });
  const typed = element("input", { type: "text", autocomplete: "off", inputMode: "numeric" });
  let isPlanned = false;

  const body = () => {
    if (kind === "drain") return pace.value === "" ? {} : { sessions_per_second: Number(pace.value) };
    return kind === "remove" ? { dead: dead.checked } : undefined;
  };
  const judge = () => {
    confirm.disabled = !isPlanned || (grave && typed.value.trim() !== String(node));
  };
  const plan = async () => {
    isPlanned = false;
    judge();
    try {
      const report = await ask("POST", `/v1/nodes/${node}/${kind}?dry_run=true`, body());
      steps.replaceChildren(...report.steps.map((step) => element("li", { text: sentence(step) })));
      steps.hidden = report.steps.length === 0;
      write(planned, report.steps.length === 0 ? "Nothing has to be done for it." : "This is what would be done:");
      isPlanned = true;
      trouble(problem, null);
    } catch (error) {
      steps.replaceChildren();
      steps.hidden = true;
      write(planned, "");
      trouble(problem, error);
    }
    judge();
  };
  const form = element("form", {
    on: {
      submit: async (event) => {
        event.preventDefault();
        if (confirm.disabled) return;
        confirm.disabled = true;
        try {
          await ask("POST", `/v1/nodes/${node}/${kind}`, body());
          dialog.close();
          begun();
        } catch (error) {
          trouble(problem, error);
          judge();
        }
      },
    },
  }, element("p", { text: about }),
  kind === "drain" ? element("label", {}, element("span", { text: "Sessions moved a second (empty: as the node is set)" }), pace) : null,
  kind === "remove" ? element("label", { class: "check" }, dead, element("span", { text: "The node is dead and will not come back: don't wait for it." })) : null,
  planned, steps, problem,
  grave ? element("label", {}, element("span", { text: `Type ${node}, the node's number, to confirm.` }), typed) : null,
  element("div", { class: "row" }, cancel, confirm));
  steps.hidden = true;
  cancel.addEventListener("click", () => dialog.close());
  dead.addEventListener("change", plan);
  typed.addEventListener("input", judge);
  const dialog = showDialog(title(node), form);
  plan();
}

/** What may be done with a node in its state. */
export function offered(node) {
  switch (node.state) {
    case "member": return ["drain", "remove"];
    case "joining": return ["remove"];
    case "draining":
    case "drained": return node.leaves ? ["undrain"] : ["undrain", "remove"];
    case "leaving": return ["undrain"];
    default: return [];
  }
}

export const WORDS = { drain: "Drain", undrain: "Take back", remove: "Remove" };
