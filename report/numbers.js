"use strict";
// How numbers look in sentences, tips and tables, and the few statistics that the page computes itself.
(() => {
  const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

  /** For people: four significant digits, integers whole. */
  const text = (value) => {
    if (!isNumber(value)) return value === null || value === undefined ? "–" : String(value);
    if (Number.isInteger(value)) return value.toLocaleString("en-US");
    const size = Math.abs(value);
    return size >= 1e-3 && size < 1e6 ? String(Number(value.toPrecision(4))) : value.toExponential(2);
  };

  /** A share as a percentage. */
  const percent = (share) => {
    if (!isNumber(share)) return "–";
    const value = share * 100;
    return `${value !== 0 && Math.abs(value) < 10 ? Number(value.toPrecision(2)) : Math.round(value * 10) / 10} %`;
  };

  const sum = (values) => values.reduce((all, value) => all + (isNumber(value) ? value : 0), 0);

  const argmax = (values) => values.reduce((best, value, i) => (value > (values[best] ?? -Infinity) ? i : best), 0);

  const shares = (counts) => {
    const all = sum(counts);
    return counts.map((count) => (all > 0 ? count / all : null));
  };

  /** Jensen-Shannon divergence of two distributions, bits: 0 the same, 1 nothing in common. */
  const jensenShannon = (p, q) => {
    let bits = 0;
    for (let i = 0; i < p.length; ++i) {
      const middle = (p[i] + q[i]) / 2;
      if (p[i] > 0) bits += 0.5 * p[i] * Math.log2(p[i] / middle);
      if (q[i] > 0) bits += 0.5 * q[i] * Math.log2(q[i] / middle);
    }
    return Math.max(0, bits);
  };

  const range = (count) => Array.from({ length: count }, (_, i) => i);

  /** "layer 3", "layers 3 and 5", "layers 1, 2, 5 and 9 more". */
  const list = (noun, items, most = 4) => {
    const names = items.map(String);
    if (names.length === 1) return `${noun} ${names[0]}`;
    if (names.length > most + 1) return `${noun}s ${names.slice(0, most).join(", ")} and ${names.length - most} more`;
    return `${noun}s ${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
  };

  const count = (n, noun) => `${text(n)} ${noun}${n === 1 ? "" : "s"}`;

  /** With a capital letter, unless a name of a file or a study begins it, and a full stop. */
  const sentence = (words) => (words ? `${/^\w+[_.]\w/.test(words) ? words[0] : words[0].toUpperCase()}${words.slice(1)}${/[.!?]$/.test(words) ? "" : "."}` : "");

  moetap.numbers = { sentence, isNumber, text, percent, sum, argmax, shares, jensenShannon, range, list, count };
})();
