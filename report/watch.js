"use strict";
// A page that `moetap report --watch` serves loads itself anew when its inputs grew. Other pages never connect.
(() => {
  const { watched } = moetap.data.all;
  if (watched === undefined) return;
  const kPauseMs = 1500;
  const ask = async () => {
    try {
      const answer = await fetch("version", { cache: "no-store" });
      if (answer.ok && (await answer.text()) !== String(watched)) {
        location.reload();
        return;
      }
    } catch {
      moetap.announce("moetap no longer watches the inputs");
    }
    setTimeout(ask, kPauseMs);
  };
  setTimeout(ask, kPauseMs);
})();
