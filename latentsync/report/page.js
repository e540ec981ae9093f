// Each row of players runs in step: one play button, one slider, and a choice of the audio to hear.
for (const row of document.querySelectorAll(".row")) {
  const videos = [...row.querySelectorAll("video")];
  const heads = videos.map((video) => video.closest("figure").querySelector(".playhead"));
  const choices = [...row.querySelectorAll(".hear input")];
  const button = row.querySelector("button.play");
  const slider = row.querySelector("input[type=range]");
  const length = () => Math.max(...videos.map((video) => video.duration || 0));
  let playing = false;

  row.querySelector(".controls").hidden = false;
  for (const video of videos) {
    video.controls = false;
    video.removeAttribute("controls");
    // Some browsers cannot seek in a data: address, all can in a blob: address.
    fetch(video.src).then((answer) => answer.blob()).then((blob) => { video.src = URL.createObjectURL(blob); }, () => {});
  }
  const hear = (index) => {
    videos.forEach((video, i) => {
      video.muted = i !== index;
      video.closest("figure").classList.toggle("heard", i === index);
    });
    choices[index].checked = true;
  };
  const show = () => {
    const time = Math.max(...videos.map((video) => video.currentTime));
    slider.value = length() ? (1000 * time) / length() : 0;
    videos.forEach((video, i) => {
      if (!heads[i]) return;
      const span = Number(heads[i].dataset.span) * Math.min(1, video.currentTime / Number(heads[i].dataset.seconds));
      heads[i].setAttribute("transform", `translate(${span.toFixed(1)} 0)`);
    });
  };
  const stop = () => {
    playing = false;
    videos.forEach((video) => video.pause());
    button.textContent = "▶ Play all";
  };
  const follow = () => {
    if (!playing) return;
    const lead = videos[choices.findIndex((choice) => choice.checked)];
    for (const video of videos) {
      const drift = video.currentTime - lead.currentTime;
      if (!lead.ended && !video.ended && Math.abs(drift) > 0.12) video.currentTime = lead.currentTime;
    }
    show();
    if (videos.every((video) => video.ended)) stop();
    requestAnimationFrame(follow);
  };
  const start = () => {
    if (videos.some((video) => video.ended)) videos.forEach((video) => { video.currentTime = 0; });
    playing = true;
    row.classList.add("live");
    button.textContent = "❚❚ Pause";
    Promise.all(videos.map((video) => video.play())).catch(stop);
    requestAnimationFrame(follow);
  };
  button.addEventListener("click", () => (playing ? stop() : start()));
  slider.addEventListener("input", () => {
    row.classList.add("live");
    videos.forEach((video) => { video.currentTime = Math.min((slider.value / 1000) * length(), video.duration || 0); });
    show();
  });
  choices.forEach((choice, i) => choice.addEventListener("change", () => hear(i)));
  videos.forEach((video, i) => video.addEventListener("click", () => { hear(i); if (!playing) start(); }));
  hear(Math.min(1, videos.length - 1));
}
