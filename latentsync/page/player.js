// The player: two videos side by side, started, stopped and moved together. The result leads, the source follows.
(() => {
  const FAR_S = 0.15, NEAR_S = 0.015; // a follower further off is moved; one less far off plays faster or slower
  const parts = (inside) => {
    const player = inside.closest?.(".player");
    if (!player) return null;
    const [source, result] = player.querySelectorAll("video");
    return { player, source, result, seek: player.querySelector("[type=range]") };
  };
  const clock = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;
  const follow = ({ source, result }, exactly = false) => {
    const end = source.duration || Infinity, wanted = Math.min(result.currentTime, end);
    const off = source.currentTime - wanted;
    if (exactly || result.paused ? Math.abs(off) > 0.001 : Math.abs(off) > FAR_S) source.currentTime = wanted;
    source.playbackRate = !result.paused && Math.abs(off) > NEAR_S ? 1 - Math.max(-0.2, Math.min(0.2, 2 * off)) : 1;
    if (!result.paused && source.paused && wanted < end - 0.05) source.play().catch(() => {});
  };
  const show = ({ player, result, seek }) => {
    if (!seek.matches(":active")) seek.value = result.currentTime;
    seek.max = result.duration || 0;
    seek.setAttribute("aria-valuetext", `${clock(result.currentTime)} of ${clock(result.duration || 0)}`);
    player.querySelector(".time").textContent = `${clock(result.currentTime)} / ${clock(result.duration || 0)}`;
    const button = player.querySelector(".play");
    button.textContent = result.paused ? "Play" : "Pause";
  };
  const hear = ({ player, source, result }) => {
    const wanted = player.querySelector("select").value;
    source.muted = wanted !== "source";
    result.muted = wanted !== "result";
  };
  const toggle = (it) => {
    hear(it);
    if (it.result.paused) {
      if (it.result.ended) it.result.currentTime = 0;
      follow(it, true);
      it.result.play();
      it.source.play().catch(() => {});
    } else it.result.pause();
  };
  const on = (name, act) => document.addEventListener(name, (event) => {
    const it = event.target instanceof Element ? parts(event.target) : null;
    if (it) act(it, event);
  }, true); // media events do not bubble
  on("click", (it, event) => { if (event.target.matches(".play, video")) toggle(it); });
  on("input", (it, event) => {
    if (event.target !== it.seek) return;
    it.result.currentTime = Number(it.seek.value);
    follow(it, true);
    show(it);
  });
  on("change", (it, event) => { if (event.target.matches("select")) hear(it); });
  for (const name of ["timeupdate", "play", "pause", "ended", "loadedmetadata", "seeked"]) {
    on(name, (it, event) => {
      if (event.target === it.result) {
        if (name === "pause" || name === "ended") it.source.pause();
        follow(it, name === "pause" || name === "ended");
        show(it);
      }
    });
  }
  on("error", (it, event) => {
    if (event.target.matches("video")) event.target.closest("figure").classList.add("unplayable");
  });
  const frame = () => { // between the events, which come four times a second
    for (const player of document.querySelectorAll(".player")) {
      const it = parts(player);
      if (!it.result.paused) { follow(it); show(it); }
    }
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
})();
