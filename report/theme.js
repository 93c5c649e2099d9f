"use strict";
// Light and dark, and the colours of figures. Scales change in lightness all the way, and no pair of hues is needed to
// read them, so they hold for readers who see colours differently and in print.
(() => {
  const root = document.documentElement;
  const system = globalThis.matchMedia("(prefers-color-scheme: dark)");
  const listeners = [];

  const scales = {
    light: {
      amount: ["#f3f6fa", "#cfdfee", "#95bfdf", "#4d92c6", "#1d6299", "#0b2f5c"],
      change: ["#0b3f73", "#3f86be", "#b9d6ec", "#f6f5f2", "#f5d3ab", "#d97f2c", "#8f4300"],
    },
    dark: {
      amount: ["#1b2732", "#1f456a", "#2d6fa3", "#5aa5d0", "#a9d4e8", "#f2fbff"],
      change: ["#a9dcff", "#5aa5d8", "#2a4f6e", "#1e2832", "#6b4a25", "#d98d3d", "#ffd29a"],
    },
  };
  // Okabe and Ito's set, yellow and grey darkened for a light page, all lifted for a dark one.
  const sets = {
    light: ["#0072b2", "#d98600", "#009a70", "#b8578f", "#3f9fd8", "#c44e00", "#85760a", "#6a6f75"],
    dark: ["#5ab0e6", "#f2b14a", "#3fc79d", "#e29cc4", "#9ad4f5", "#f58b52", "#d6c94a", "#a8b0b8"],
  };
  const dashes = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
  const symbols = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down"];

  const wanted = () => {
    try {
      return localStorage.getItem("moetap-theme");
    } catch {
      return null;  // a page from a file may have no storage
    }
  };
  const name = () => (root.dataset.theme === "dark" ? "dark" : "light");
  const variable = (key) => getComputedStyle(root).getPropertyValue(`--${key}`).trim();

  const apply = (theme, remember) => {
    root.dataset.theme = theme;
    const button = document.getElementById("theme");
    button.textContent = theme === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Change to ${theme === "dark" ? "light" : "dark"} colours`);
    if (remember) {
      try {
        localStorage.setItem("moetap-theme", theme);
      } catch {
        // not remembered
      }
    }
    for (const listener of listeners) listener();
  };

  const scale = (kind) => {
    const colors = scales[name()][kind];
    return colors.map((color, i) => [i / (colors.length - 1), color]);
  };

  /** As #rrggbb, which every reader of colours understands. hue in degrees, the others from 0 to 1. */
  const hex = (hue, saturation, lightness) => {
    const channel = (n) => {
      const k = (n + hue / 30) % 12;
      const value = lightness - saturation * Math.min(lightness, 1 - lightness) * Math.max(-1, Math.min(k - 3, 9 - k, 1));
      return Math.round(value * 255).toString(16).padStart(2, "0");
    };
    return `#${channel(0)}${channel(8)}${channel(4)}`;
  };

  /** Colour of the i-th of `count` things. Beyond eight, hues around the wheel: the number is shown with the colour. */
  const color = (i, count = 8) => {
    if (count <= 8) return sets[name()][i % 8];
    const lightness = name() === "dark" ? [0.72, 0.6, 0.8] : [0.4, 0.52, 0.32];
    return hex((i * 137.508) % 360, 0.62, lightness[i % 3]);
  };

  const channels = (hexColor) => [1, 3, 5].map((i) => parseInt(hexColor.slice(i, i + 2), 16));

  /** The colour of a scale at `place` (0 to 1). */
  const colorAt = (kind, place) => {
    const colors = scales[name()][kind], at = Math.min(1, Math.max(0, place)) * (colors.length - 1), i = Math.min(colors.length - 2, Math.floor(at));
    const [a, b] = [channels(colors[i]), channels(colors[i + 1])];
    return `rgb(${a.map((value, c) => Math.round(value + (b[c] - value) * (at - i))).join(",")})`;
  };

  /** Black or white, whichever is easier to read on the colour of a scale at `place` (0 to 1). */
  const inkOn = (kind, place) => {
    const colors = scales[name()][kind], at = Math.min(1, Math.max(0, place)) * (colors.length - 1), i = Math.min(colors.length - 2, Math.floor(at));
    const [a, b] = [channels(colors[i]), channels(colors[i + 1])];
    // Relative luminance (WCAG).
    const light = a.map((value, c) => (value + (b[c] - value) * (at - i)) / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    const luminance = 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2];
    return luminance > 0.179 ? "#10181f" : "#ffffff";
  };

  const isDark = () => name() === "dark";
  document.getElementById("theme").addEventListener("click", () => apply(isDark() ? "light" : "dark", true));
  system.addEventListener("change", () => {
    if (!wanted()) apply(system.matches ? "dark" : "light", false);
  });
  apply(wanted() ?? (system.matches ? "dark" : "light"), false);

  moetap.theme = {
    scale, color, colorAt, inkOn, variable, isDark, apply,
    dash: (i) => dashes[i % dashes.length],
    symbol: (i) => symbols[i % symbols.length],
    onChange: (listener) => listeners.push(listener),
  };
})();
