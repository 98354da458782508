// Dual-Direction Settings: choosing a preset fills the other widgets. What does not count is grey: the preset beside
// connected settings, and the frames for a batch beside a chain of keyframes, which has its own.
import { app } from "../../scripts/app.js";

function fillsTheOthers(node, presets) {
    const preset = node.widgets.find(widget => widget.name === "preset");
    const callback = preset.callback;
    preset.callback = function (value, ...others) {
        callback?.call(this, value, ...others);
        for (const widget of node.widgets) {
            const filled = presets[value]?.[widget.name];
            if (filled !== undefined) widget.value = filled;
        }
        app.graph.setDirtyCanvas(true, true);
    };
}

function brings(node, name, type) {
    const slot = node.inputs?.findIndex(input => input.name === name) ?? -1;
    if (slot < 0 || node.inputs[slot].link == null) return false;
    const link = node.getInputLink(slot);
    return !type || node.getInputNode(slot)?.outputs?.[link?.origin_slot]?.type === type;
}

function isGreyBeside(node, name, input, type) {
    const look = () => {
        const widget = node.widgets?.find(widget => widget.name === name);
        if (widget) widget.disabled = brings(node, input, type);
    };
    for (const name of ["onConnectionsChange", "onConfigure"]) {
        const before = node[name];
        node[name] = function (...about) {
            const answer = before?.apply(this, about);
            look();
            return answer;
        };
    }
}

// A new seed after each run would encode the keyframes anew each time, and the sampler's seed alone would not say which
// video it gives. The schema cannot say so to the older hosts.
function keepsItsSeed(node) {
    const control = node.widgets.find(widget => widget.name === "control_after_generate");
    if (control) control.value = "fixed";
}

app.registerExtension({
    name: "GenerativeInbetweening.Settings",

    nodeCreated(node) {
        const { input } = node.constructor.nodeData ?? {};
        if (node.comfyClass === "InbetweenSettings") fillsTheOthers(node, input.required.preset[1].presets);
        else if (input?.optional?.settings?.[0] === "INBETWEEN_SETTINGS") isGreyBeside(node, "preset", "settings");
        if (node.comfyClass === "InbetweenKeyframeSequence")
            isGreyBeside(node, "frames_per_segment", "keyframes", "INBETWEEN_KEYFRAMES");
        if (node.comfyClass === "InbetweenEncodeKeyframes") keepsItsSeed(node);
    },
});
