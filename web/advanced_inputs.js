// A node's advanced inputs in the classic style of nodes: folded away, with a button at the node's end. ComfyUI's
// window does so in its new style only, where this leaves the node to it. Both styles share the state `showAdvanced`,
// which the window saves with the node.
import { app } from "../../scripts/app.js";

const WORDS = {
    en: { show: "Show advanced inputs", hide: "Hide advanced inputs", changed: "changed" },
    es: { show: "Mostrar entradas avanzadas", hide: "Ocultar entradas avanzadas", changed: "cambiadas" },
    zh: { show: "显示高级输入", hide: "隐藏高级输入", changed: "已更改" },
};
const ALWAYS_SHOWN = "Comfy.Node.AlwaysShowAdvancedWidgets";
// What the window adds to the height of a widget.
const GAP = 4;

const words = () => WORDS[app.extensionManager.setting.get("Comfy.Locale")] ?? WORDS.en;
const areAlwaysShown = () => Boolean(app.extensionManager.setting.get(ALWAYS_SHOWN));
const isLinked = (node, widget) => node.inputs?.some(input => input.widget?.name === widget.name && input.link != null);

// An input's value when nobody has chosen one: the preset's where it is one of its settings.
function usualValue(node, { name }) {
    const { required = {}, optional = {} } = node.constructor.nodeData.input;
    const preset = node.widgets.find(widget => widget.name === "preset")?.value;
    const [type, { default: value, options, presets } = {}] = required[name] ?? optional[name];
    const held = required.preset?.[1].presets?.[preset]?.[name];
    return held ?? value ?? (Array.isArray(type) ? type : options)?.[0];
}

function foldAway(node, advanced) {
    const areShown = () => node.showAdvanced || areAlwaysShown();
    const isFolded = widget => advanced.includes(widget) && !areShown() && !isLinked(node, widget);
    const changed = () => advanced.filter(widget => widget.value !== usualValue(node, widget));

    // The last one: the window counts it when it numbers the saved values, though it saves none for it.
    const press = () => node.toggleAdvanced(), options = { canvasOnly: true, serialize: false };
    const button = node.addWidget("button", "show_advanced_inputs", null, press, options);
    button.serialize = false;
    Object.defineProperty(button, "label", {
        configurable: true,
        get() {
            const { show, hide, changed: inWords } = words(), count = changed().length;
            return node.showAdvanced ? hide : count ? `${show} (${count} ${inWords})` : show;
        },
    });

    const { isWidgetVisible, onConfigure, onConnectionsChange } = node;
    node.isWidgetVisible = function (widget) {
        return isWidgetVisible.call(this, widget) && !isFolded(widget) && !(widget === button && areAlwaysShown());
    };
    for (const widget of advanced) {
        let { computeSize } = widget;
        Object.defineProperty(widget, "computeSize", {
            configurable: true,
            // One that a subgraph shows on its outside is asked through another object, and has its room there.
            get() { return this === widget && isFolded(widget) ? () => [0, -GAP] : computeSize; },
            set: value => { computeSize = value; },
        });
    }

    // A height that the user gave to the node beyond what it needs stays.
    node.toggleAdvanced = function () {
        const spare = Math.max(0, this.size[1] - this.computeSize()[1]);
        this.showAdvanced = !this.showAdvanced;
        this.setSize([this.size[0], this.computeSize()[1] + spare]);
        this.setDirtyCanvas(true, true);
    };
    node.onConnectionsChange = function (kind, slot, isConnected, ...about) {
        const answer = onConnectionsChange?.call(this, kind, slot, isConnected, ...about);
        const name = kind === LiteGraph.INPUT && this.inputs[slot]?.widget?.name;
        if (advanced.some(widget => widget.name === name) && !areShown() && !LiteGraph.vueNodesMode) {
            const height = this.size[1] - (isConnected ? 0 : LiteGraph.NODE_WIDGET_HEIGHT + GAP);
            this.setSize([this.size[0], Math.max(height, this.computeSize()[1])]);
        }
        return answer;
    };
    // What a graph has changed is in sight, unless it was saved folded.
    node.onConfigure = function (saved, ...about) {
        const answer = onConfigure?.call(this, saved, ...about);
        if (saved.showAdvanced == null && changed().length) this.showAdvanced = true;
        return answer;
    };

    node.setSize([node.size[0], node.computeSize()[1]]);
}

app.registerExtension({
    name: "GenerativeInbetweening.AdvancedInputs",

    nodeCreated(node) {
        if (!node.comfyClass?.startsWith("Inbetween")) return;
        const advanced = node.widgets?.filter(widget => widget.options?.advanced) ?? [];
        if (advanced.length) foldAway(node, advanced);
    },
});
