// Runs a graph model in TensorFlow.js, as runtimes.py runs the others.
//
//     node runtimes.cjs tfjs FOLDER IMAGES SCORES < options

const fs = require("fs");
const path = require("path");
const tf = require("@tensorflow/tfjs");

const FEWEST = 3; // repeats
const [, , , folder, imagesPath, scoresPath] = process.argv;

// There is no server to load it from.
function load() {
  const file = path.join(folder, "model.json");
  const { modelTopology, weightsManifest } = JSON.parse(fs.readFileSync(file));
  const paths = weightsManifest.flatMap((group) => group.paths);
  const parts = paths.map((name) => fs.readFileSync(path.join(folder, name)));
  const whole = Buffer.concat(parts);
  const weightData = whole.buffer.slice(
    whole.byteOffset,
    whole.byteOffset + whole.byteLength,
  );
  const weightSpecs = weightsManifest.flatMap((group) => group.weights);
  return tf.loadGraphModel(
    tf.io.fromMemory({ modelTopology, weightSpecs, weightData }),
  );
}

async function main() {
  const options = JSON.parse(fs.readFileSync(0));
  await tf.setBackend("cpu");
  const bytes = fs.readFileSync(imagesPath);
  const images = new Float32Array(
    bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength),
  );
  const length = options.shape.reduce((a, b) => a * b);
  const model = await load();

  const run = (start, size) =>
    tf.tidy(() => {
      const batch = Float32Array.from({ length: size * length }, (_, each) =>
        images[(start * length + each) % images.length],
      );
      return model
        .execute(tf.tensor(batch, [size, ...options.shape]))
        .dataSync();
    });

  const parts = [];
  let start = 0;
  for (const size of options.batches) {
    parts.push(Buffer.from(run(start, size).slice().buffer));
    start += size;
  }
  fs.writeFileSync(scoresPath, Buffer.concat(parts));
  const found = {};
  for (const size of options.timed) {
    run(0, size);
    found[size] = [];
    let total = 0;
    while (found[size].length < options.repeats) {
      const begun = performance.now();
      run(0, size);
      found[size].push(performance.now() - begun);
      total += found[size].at(-1);
      if (found[size].length >= FEWEST && total > options.most_ms) break;
    }
  }
  console.log(JSON.stringify(found));
}

main();
