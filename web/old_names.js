// Saved graphs with names that inputs and choices had before open with the new ones, which are then saved.
// old_names.json lists the names by the date of the change; nodes/old_names.py does the same for graphs in API form.
import { app } from "../../scripts/app.js";

const answer = await fetch(new URL("./old_names.json", import.meta.url));
const changes = Object.values(await answer.json());

const changesOf = type => changes.filter(change => change.nodes.includes(type));
export const note = (node, what) => console.warn(`Node ${node.id} (${node.type}): ${what}.`);

// Today's name of an input, and of a choice in the input that has this name today.
export const nameToday = (type, name) =>
    changesOf(type).reduce((now, change) => change.inputs[now] ?? now, name);
export const valueToday = (type, name, value) =>
    changesOf(type).reduce((now, change) => change.values[name]?.[now] ?? now, value);

app.registerExtension({
    name: "GenerativeInbetweening.OldNames",

    // Inputs before the window connects them by their names.
    beforeConfigureGraph(graph) {
        for (const level of [graph, ...(graph.definitions?.subgraphs ?? [])])
            for (const node of level.nodes ?? [])
                for (const input of node.inputs ?? []) {
                    const name = nameToday(node.type, input.name);
                    if (name === input.name) continue;
                    note(node, `the input ${input.name} is now called ${name}`);
                    input.name = input.localized_name = name;
                    if (input.widget) input.widget.name = name;
                }
    },

    // Values when each has found its widget.
    loadedGraphNode(node) {
        for (const widget of node.widgets ?? []) {
            const value = valueToday(node.type, widget.name, widget.value);
            if (value === widget.value) continue;
            note(node, `${widget.name} "${widget.value}" is now called "${value}"`);
            widget.value = value;
        }
    },
});
