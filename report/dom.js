"use strict";
// Elements are made here only, and texts go in as text: names from models and samples are never read as HTML.
globalThis.moetap = {};

(() => {
  /** make("p", {class: "note", onclick: f}, "text", otherElement): attributes by name, listeners as onNAME. */
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === undefined || value === null || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value === true ? "" : String(value));
    }
    for (const child of children.flat()) {
      if (child !== null && child !== undefined) element.append(child);
    }
    return element;
  };

  const makeSvg = (tag, attributes = {}, ...children) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
    element.append(...children);
    return element;
  };

  /** A labelled <select>; options are [value, text] pairs. */
  const makeSelect = (label, options, value, onChange) => {
    const select = make("select", { onchange: () => onChange(select.value) });
    for (const [key, text] of options) select.append(make("option", { value: key }, moetap.short(text, 60)));
    select.value = String(value);
    return make("label", {}, make("span", {}, label), select);
  };

  const announce = (text) => {
    document.getElementById("announce").textContent = text;
  };

  /** Gives the reader a file. */
  const download = (name, content, type) => {
    const url = typeof content === "string" && content.startsWith("data:")
      ? content : URL.createObjectURL(new Blob([content], { type }));
    const link = make("a", { href: url, download: name });
    document.body.append(link);
    link.click();
    link.remove();
    if (url.startsWith("blob:")) setTimeout(() => URL.revokeObjectURL(url), 10000);
    announce(`${name} is downloaded`);
  };

  /** Cut for a label; the whole text is in tables and tips. Cuts between characters, not within one. */
  const short = (text, most = 40) => {
    const characters = [...String(text)];
    return characters.length <= most ? characters.join("") : `${characters.slice(0, most - 1).join("")}…`;
  };

  /** For Plotly, which reads a little HTML (<b>, <br>, <a href>) in labels. */
  const plain = (text, most = 40) =>
    short(text, most).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

  Object.assign(moetap, { make, makeSvg, makeSelect, announce, download, short, plain });
})();
