"""Engines that can be measured: one file each.

A file is read twice: by secateur, for its tables, and in the engine's own process, where there may
be no secateur. So it imports nothing but the standard library until one of its functions is called,
and runs on Python 3.10. It holds

- `PEERS`: name on the command line → what sets that peer apart. `{}` is the engine as it comes;
  "settings" are handed to the functions below, "quantised": True puts `quantise` first, "packages"
  are needed besides those of the engine.
- `PACKAGES`: what the engine's environment holds, with versions. The first is the engine itself.
- `SKIPS_ZEROS`, `PYTHONS`: optional; see `environments.Peer`.
- `load(model, feeds, threads, axes, settings)` → (engine, call, precision): `call` takes feeds
  (input → array, shapes as in the feeds given here) and returns a list of outputs; `precision` is
  what the engine really computes in: "f32", "bf16", "int8 (QDQ)".
- `quantise(model, folder, batches, settings)` → (files, by): writes a quantised model into a
  folder, calibrated on a list of feeds; the first file is what `load` is given; `by` is what
  quantised it, with its version.
"""
