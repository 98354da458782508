// Saved graphs with names that inputs and choices had before open with the new ones, which are then saved.
// old_names.json lists the names by the date of the change; nodes/old_names.py does the same for graphs in API form.
import { app } from "../../scripts/app.js";

const answer = await fetch(new URL("./old_names.json", import.meta.url));
const changes = Object.values(await answer.json());

const changesOf = type => changes.filter(change => change.nodes.includes(type));
// What a seed does after a run.
export const CONTROLS = ["fixed", "increment", "decrement", "randomize"];
export const note = (node, what) => console.warn(`Node ${node.id} (${node.type}): ${what}.`);

// Today's name of an input, and of a choice in the input that has this name today.
export const nameToday = (type, name) =>
    changesOf(type).reduce((now, change) => change.inputs[now] ?? now, name);
export const valueToday = (type, name, value) =>
    changesOf(type).reduce((now, change) => change.values[name]?.[now] ?? now, value);

// The same for a saved node's inputs and, where its widgets stand among them, for their values.
function rename(node) {
    const values = node.widgets_values;
    let place = 0;
    for (const input of node.inputs ?? []) {
        const name = nameToday(node.type, input.name);
        if (name !== input.name) {
            note(node, `the input ${input.name} is now called ${name}`);
            input.name = input.localized_name = name;
            if (input.widget) input.widget.name = name;
        }
        if (!input.widget || !Array.isArray(values)) continue;
        const value = values[place], today = valueToday(node.type, name, value);
        if (today !== value) {
            note(node, `${name} "${value}" is now called "${today}"`);
            values[place] = today;
        }
        // It stands behind the seed.
        place += name === "seed" && CONTROLS.includes(values[place + 1]) ? 2 : 1;
    }
}

// Widgets that a subgraph's node shows of those inside.
function renameShown(outside, subgraph) {
    for (const shown of outside.properties?.proxyWidgets ?? []) {
        const source = subgraph.nodes.find(node => String(node.id) === String(shown[0]));
        if (source) shown[1] = nameToday(source.type, shown[1]);
    }
}

// Type and input that a widget belongs to: inside, where it is shown outside a subgraph by a link.
function ownerOf(node, widget) {
    const { subgraph } = node, shown = subgraph?.inputs?.find(input => input.name === widget.name);
    const link = subgraph?.links.get(shown?.linkIds?.[0]), owner = link && subgraph.getNodeById(link.target_id);
    return owner ? [owner.type, owner.inputs[link.target_slot]?.name] : [node.type, widget.name];
}

app.registerExtension({
    name: "GenerativeInbetweening.OldNames",

    // Inputs before the window connects them by their names, values before it shows them outside a subgraph.
    beforeConfigureGraph(graph) {
        const subgraphs = graph.definitions?.subgraphs ?? [];
        for (const level of [graph, ...subgraphs])
            for (const node of level.nodes ?? []) {
                const subgraph = subgraphs.find(each => each.id === node.type);
                if (subgraph) renameShown(node, subgraph);
                else if (changesOf(node.type).length) rename(node);
            }
    },

    // Values outside a subgraph and of graphs that do not list their widgets, when each has found its widget.
    loadedGraphNode(node) {
        for (const widget of node.widgets ?? []) {
            const value = valueToday(...ownerOf(node, widget), widget.value);
            if (value === widget.value) continue;
            note(node, `${widget.name} "${widget.value}" is now called "${value}"`);
            widget.value = value;
        }
    },
});
