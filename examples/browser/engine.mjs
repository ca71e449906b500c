// An engine of secateur in a browser or in node, with nothing else:
//
//     secateur compile net.onnx --target wasm32-wasi        # net.wasm
//
//     import { load } from "./engine.mjs";
//     const engine = await load(await (await fetch("net.wasm")).arrayBuffer());
//     const [logits] = engine.run([pixels]);                // typed arrays in, typed arrays out

const KINDS = {
  float32: Float32Array, float64: Float64Array, int64: BigInt64Array, int32: Int32Array,
  uint8: Uint8Array, int8: Int8Array, bool: Uint8Array,
};
const ENOSYS = 52;

/** Load a module from its bytes. It has `info`, `inputs` and `outputs` (name, shape of a sample, dtype). */
export async function load(bytes) {
  const module = await WebAssembly.compile(bytes);
  // The module's C library may ask a system for files and clocks; an engine never needs them.
  const system = {};
  for (const { name } of WebAssembly.Module.imports(module)) system[name] = () => ENOSYS;
  system.proc_exit = (code) => { throw new Error(`the engine ended with ${code}`); };
  const { exports } = await WebAssembly.instantiate(module, { wasi_snapshot_preview1: system });
  exports._initialize?.();

  const text = (at) => {
    const all = new Uint8Array(exports.memory.buffer);
    return new TextDecoder().decode(all.subarray(at, all.indexOf(0, at)));
  };
  const info = JSON.parse(text(exports.secateur_info()));
  const engine = exports.secateur_create(1, 0);
  if (!engine) throw new Error("the engine could not be made: too little memory");
  const fixed = exports.secateur_fixed_batch();

  return {
    info,
    inputs: info.inputs,
    outputs: info.outputs,
    /** Run `batch` samples, one after the other in each array; returns one array for each output. */
    run(arrays, batch = 1) {
      if (arrays.length !== info.inputs.length) throw new Error(`give ${info.inputs.length} arrays`);
      if (fixed && batch !== fixed) throw new Error(`the batch is always ${fixed}`);
      const samples = fixed ? 1 : batch;
      const taken = [];
      const room = (size) => {
        const at = exports.malloc(size);
        if (!at) throw new Error("too little memory");
        taken.push(at);
        return at;
      };
      try {
        const into = arrays.map((array, i) => {
          const size = samples * exports.secateur_input_bytes(i);
          const kind = KINDS[info.inputs[i].dtype];
          if (!(array instanceof kind) || array.byteLength !== size)
            throw new Error(`input ${i} is a ${kind.name} of ${size / kind.BYTES_PER_ELEMENT} elements`);
          return [room(size), new Uint8Array(array.buffer, array.byteOffset, size)];
        });
        const from = info.outputs.map((_, i) => {
          const size = samples * exports.secateur_output_bytes(i);
          return [room(size), size];
        });
        const table = room(4 * (into.length + from.length));
        new Uint32Array(exports.memory.buffer).set([...into, ...from].map(([at]) => at), table / 4);
        for (const [at, content] of into) new Uint8Array(exports.memory.buffer).set(content, at);
        const failed = exports.secateur_run(engine, table, table + 4 * into.length, batch);
        if (failed) throw new Error(text(exports.secateur_error_text(failed)));
        return from.map(([at, size], i) =>
          new KINDS[info.outputs[i].dtype](exports.memory.buffer.slice(at, at + size)));
      } finally {
        taken.forEach((at) => exports.free(at));
      }
    },
    close() { exports.secateur_destroy(engine); },
  };
}
