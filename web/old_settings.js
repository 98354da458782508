// Graphs from when the sampler and the sequence held their settings: opened, each has a node that holds them.
// nodes/old_graphs.py does the same for graphs in API form that the server gets.
import { app } from "../../scripts/app.js";
import { CONTROLS, nameToday, note, valueToday } from "./old_names.js";

export const SETTINGS = "InbetweenSettings";
export const HELD_SETTINGS = ["InbetweenDualDirectionKSampler", "InbetweenKeyframeSequence"];
const WIDGETS = ["INT", "FLOAT", "BOOLEAN", "STRING", "COMBO"];
// What stands behind a seed that changes by itself.
const CONTROL = "control_after_generate";
// Once the name of a preset that left everything to the widgets beside it.
export const CUSTOM = "custom", DEFAULT_PRESET = "paper";
const ROOM = 60;
const definitions = {};

// [name, type, options, whether it has a widget] of each input, those without a widget first, as the window has them.
function inputsOf(type) {
    const { required = {}, optional = {} } = definitions[type].input;
    const all = [...Object.entries(required), ...Object.entries(optional)].map(([name, [kind, options = {}]]) => {
        const isList = Array.isArray(kind);
        return { name, type: isList ? "COMBO" : kind, options, widget: isList || WIDGETS.includes(kind),
                 isOptional: name in optional, choices: isList ? kind : options.options };
    });
    return [...all.filter(input => !input.widget), ...all.filter(input => input.widget)];
}

export const isSetting = name => name !== "preset" && inputsOf(SETTINGS).some(input => input.name === name);
const presets = () => definitions[SETTINGS].input.required.preset[1].presets;

// {name: value} of a saved node's widgets, settings by the names that they have today.
function savedValues(node) {
    const values = {}, saved = [...(node.widgets_values ?? [])];
    for (const { widget } of node.inputs ?? []) {
        if (!widget) continue;
        const name = nameToday(SETTINGS, widget.name);
        values[name] = valueToday(SETTINGS, name, saved.shift());
        if (name === "seed" && CONTROLS.includes(saved[0])) values[CONTROL] = saved.shift();
    }
    return values;
}

// A node's inputs and the values of its widgets as they are saved today; `links`: {input's name: id of its link}.
function savedParts(type, values, links) {
    const parts = { inputs: [], widgets_values: [] };
    for (const { name, type: kind, options, widget, isOptional, choices } of inputsOf(type)) {
        parts.inputs.push({ localized_name: name, name, type: kind, link: links[name] ?? null,
                            ...(widget && { widget: { name } }), ...(isOptional && { shape: 7 }) });
        if (!widget) continue;
        parts.widgets_values.push(values[name] ?? options.default ?? choices?.[0]);
        if (options[CONTROL]) parts.widgets_values.push(values[CONTROL] ?? CONTROLS[0]);
    }
    return parts;
}

// Ids that are free in the graph and in all its subgraphs.
function freeIds(graph, levels) {
    const id = link => (Array.isArray(link) ? link[0] : link.id);
    const last = { Node: 0, Link: 0 };
    for (const level of levels) {
        for (const node of level.nodes ?? []) last.Node = Math.max(last.Node, Number(node.id) || 0);
        for (const link of level.links ?? []) last.Link = Math.max(last.Link, id(link));
        last.Node = Math.max(last.Node, level.last_node_id ?? 0, level.state?.lastNodeId ?? 0);
        last.Link = Math.max(last.Link, level.last_link_id ?? 0, level.state?.lastLinkId ?? 0);
    }
    return (kind, level) => {
        last[kind]++;
        for (const { state } of [graph, level]) if (state) state[`last${kind}Id`] = last[kind];
        const name = `last_${kind.toLowerCase()}_id`;
        if (name in graph) graph[name] = last[kind];
        return last[kind];
    };
}

// Leads each link to where its input is now: in `node`, in `added`, or nowhere.
function placeLinks(level, node, added) {
    const inputs = [node, added].flatMap(each => (each?.inputs ?? []).map((input, slot) => [input.link, each.id, slot]));
    const places = new Map(inputs.filter(([link]) => link != null).map(([link, ...place]) => [link, place]));
    const lost = new Set();
    for (const link of level.links) {
        const [id, target] = Array.isArray(link) ? [link[0], link[3]] : [link.id, link.target_id];
        if (String(target) !== String(node.id)) continue;
        const place = places.get(id);
        if (!place) lost.add(id);
        else if (Array.isArray(link)) [link[3], link[4]] = place;
        else [link.target_id, link.target_slot] = place;
    }
    level.links = level.links.filter(link => !lost.has(Array.isArray(link) ? link[0] : link.id));
    const slots = [...level.nodes.flatMap(each => each.outputs ?? []), ...(level.inputs ?? [])];
    for (const slot of slots)
        for (const ids of ["links", "linkIds"]) if (slot[ids]) slot[ids] = slot[ids].filter(id => !lost.has(id));
}

// A settings node that is linked to `node`, under it, with these values and links.
function addSettings(level, graph, node, values, links, freeId) {
    const id = freeId("Node", level), link = freeId("Link", level);
    const slot = node.inputs.findIndex(input => input.name === "settings");
    const { ver, cnr_id, aux_id } = node.properties ?? {};
    const added = {
        id, type: SETTINGS, flags: {}, order: node.order ?? 0, mode: 0,
        pos: [node.pos[0], node.pos[1] + ROOM + 26 * node.inputs.length], size: [node.size[0], ROOM],
        ...savedParts(SETTINGS, values, links),
        outputs: [{ localized_name: "settings", name: "settings", type: node.inputs[slot].type, links: [link] }],
        properties: { "Node name for S&R": SETTINGS, cnr_id, aux_id, ver },
    };
    node.inputs[slot].link = link;
    const inObjects = level !== graph || level.links.some(each => !Array.isArray(each));
    const ends = { origin_id: id, origin_slot: 0, target_id: node.id, target_slot: slot, type: node.inputs[slot].type };
    level.links.push(inObjects ? { id: link, ...ends } : [link, ...Object.values(ends)]);
    level.nodes.push(added);
    return added;
}

// Widgets of a node in a subgraph that are shown on the outside are those of the settings node, where they went there.
function placeShownWidgets(levels, level, node, added) {
    for (const outside of levels.flatMap(each => each.nodes ?? []))
        if (outside.type === level.id)
            for (const shown of outside.properties?.proxyWidgets ?? []) {
                const name = nameToday(SETTINGS, shown[1]);
                if (String(shown[0]) === String(node.id) && isSetting(name)) [shown[0], shown[1]] = [String(added.id), name];
            }
}

function bringUpToDate(node, level, levels, graph, freeId) {
    const saved = savedValues(node);
    const moved = Object.keys(saved).filter(isSetting);
    if (!moved.length) return;
    const links = Object.fromEntries((node.inputs ?? []).map(input => [nameToday(SETTINGS, input.name), input.link]));
    const preset = saved.preset ?? CUSTOM;
    let held;
    // One that comes by a link is known when the graph runs.
    if (links.preset == null && preset === CUSTOM) held = saved;
    else if (links.preset == null && ((saved.videos_per_call ?? "auto") !== "auto" || links.videos_per_call != null))
        held = { ...presets()[preset], videos_per_call: saved.videos_per_call };
    const heldLinks = preset === CUSTOM ? links : { videos_per_call: links.videos_per_call };
    if (preset === CUSTOM) saved.preset = DEFAULT_PRESET;
    Object.assign(node, savedParts(node.type, saved, { ...links, settings: null }));
    node.size = [node.size[0], ROOM];
    let added = null;
    if (held) {
        const movedLinks = Object.fromEntries(Object.entries(heldLinks).filter(([name]) => isSetting(name)));
        added = addSettings(level, graph, node, { ...held, preset: saved.preset }, movedLinks, freeId);
        if (level !== graph) placeShownWidgets(levels, level, node, added);
        note(node, `its settings are now those of a node of their own, ${added.id}`);
    } else note(node, "its preset counts, and the settings beside it are left out");
    placeLinks(level, node, added);
}

app.registerExtension({
    name: "GenerativeInbetweening.OldSettings",

    beforeRegisterNodeDef(_nodeType, nodeData) {
        if ([SETTINGS, ...HELD_SETTINGS].includes(nodeData.name)) definitions[nodeData.name] = nodeData;
    },

    beforeConfigureGraph(graph) {
        const levels = [graph, ...(graph.definitions?.subgraphs ?? [])];
        const freeId = freeIds(graph, levels);
        for (const level of levels)
            for (const node of [...(level.nodes ?? [])])
                if (HELD_SETTINGS.includes(node.type)) bringUpToDate(node, level, levels, graph, freeId);
    },
});
