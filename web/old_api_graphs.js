// Graphs in API form, opened in the window, with today's nodes and names; old_settings.js and old_names.js do it for
// those that were saved, nodes/old_graphs.py and nodes/old_names.py for those that the server gets.
import { app } from "../../scripts/app.js";
import { nameToday, note, valueToday } from "./old_names.js";
import { CUSTOM, DEFAULT_PRESET, HELD_SETTINGS, SETTINGS, isSetting } from "./old_settings.js";

function renamed(type, inputs) {
    const today = {};
    for (const [old, value] of Object.entries(inputs)) {
        const name = nameToday(type, old);
        if (name === old || !(name in inputs)) today[name] = valueToday(type, name, value);
    }
    return today;
}

function freeId(graph) {
    let number = Object.keys(graph).length + 1;
    while (String(number) in graph) number++;
    return String(number);
}

function withSettings(graph, id, node) {
    const all = renamed(SETTINGS, node.inputs), names = Object.keys(all).filter(isSetting);
    if (!names.length) return;
    const pick = wanted => Object.fromEntries(Object.entries(all).filter(([name]) => wanted(name)));
    const { preset = CUSTOM } = all, inputs = pick(name => !isSetting(name));
    let held = pick(isSetting);
    if (preset === CUSTOM) inputs.preset = DEFAULT_PRESET;
    // Any other counted instead of the inputs beside it.
    else held = pick(name => name === "videos_per_call" && all[name] !== "auto" && !Array.isArray(preset));
    if (Object.keys(held).length && !inputs.settings) {
        const added = freeId(graph);
        graph[added] = { class_type: SETTINGS, inputs: { preset: inputs.preset, ...held } };
        inputs.settings = [added, 0];
    }
    graph[id] = { ...node, inputs };
    note({ id, type: node.class_type }, inputs.settings
        ? "its settings are now those of a node of their own" : "its preset counts, and the settings beside it are left out");
}

function upToDate(graph) {
    const today = { ...graph };
    for (const [id, node] of Object.entries(graph))
        if (HELD_SETTINGS.includes(node.class_type)) withSettings(today, id, node);
    for (const [id, node] of Object.entries(today)) {
        const inputs = renamed(node.class_type, node.inputs ?? {});
        // The window gives widgets their values one by one, and a preset fills the others.
        today[id] = { ...node, inputs: "preset" in inputs ? { preset: inputs.preset, ...inputs } : inputs };
    }
    return today;
}

app.registerExtension({
    name: "GenerativeInbetweening.OldApiGraphs",

    setup() {
        const { loadApiJson } = app;
        app.loadApiJson = function (graph, ...others) {
            return loadApiJson.call(this, upToDate(graph), ...others);
        };
    },
});
