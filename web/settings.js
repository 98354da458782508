// Dual-Direction Settings: choosing a preset fills the other widgets. Where settings are connected, the preset beside
// them does not count and is grey.
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

function isGreyBesideSettings(node) {
    const look = () => {
        const preset = node.widgets?.find(widget => widget.name === "preset");
        if (preset) preset.disabled = node.inputs?.some(input => input.name === "settings" && input.link != null);
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

app.registerExtension({
    name: "GenerativeInbetweening.Settings",

    nodeCreated(node) {
        const { input } = node.constructor.nodeData ?? {};
        if (node.comfyClass === "InbetweenSettings") fillsTheOthers(node, input.required.preset[1].presets);
        else if (input?.optional?.settings?.[0] === "INBETWEEN_SETTINGS") isGreyBesideSettings(node);
    },
});
