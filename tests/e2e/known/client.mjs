// The real JavaScript client of Ollama: node client.mjs URL. Prints "ok" and ends with 0 when everything was as expected.
import assert from "node:assert/strict";
import { Ollama } from "ollama";

const ollama = new Ollama({ host: process.argv[2] });
const HELLO = "Hello world! Grün 🙂";
const messages = [{ role: "user", content: "hi" }];

const { models } = await ollama.list();
assert.ok(models.some((m) => m.name === "tiny-hello:latest"));
assert.deepEqual((await ollama.show({ model: "tiny-tool" })).capabilities, ["completion", "tools"]);
assert.equal((await ollama.version()).version, "0.33.0");

assert.equal((await ollama.generate({ model: "tiny-hello", prompt: "hi" })).response, HELLO);
assert.equal((await ollama.chat({ model: "tiny-hello", messages })).message.content, HELLO);

let text = "";
let last;
for await (const part of await ollama.chat({ model: "tiny-hello", messages, stream: true })) {
  text += part.message.content;
  last = part;
}
assert.equal(text, HELLO);
assert.equal(last.done, true);
assert.equal(typeof last.total_duration, "number");

const tools = [{ type: "function", function: { name: "get_weather", parameters: { type: "object", properties: {} } } }];
const called = await ollama.chat({ model: "tiny-tool", messages, tools });
assert.deepEqual(called.message.tool_calls[0].function.arguments, { city: "Paris", days: 2 });

const thought = await ollama.chat({ model: "tiny-think", messages, think: true });
assert.equal(thought.message.thinking, "hm, well");
assert.equal(thought.message.content, "Yes.");

const { embeddings } = await ollama.embed({ model: "tiny", input: ["ab", "x"] });
assert.deepEqual(embeddings.map((v) => v.indexOf(1)), ["b", "x"].map((c) => c.charCodeAt(0)));
assert.ok((await ollama.embeddings({ model: "tiny", prompt: "x" })).embedding["x".charCodeAt(0)] > 2);
await assert.rejects(ollama.embed({ model: "nothere", input: "x" }), /not found/);

await assert.rejects(ollama.chat({ model: "nothere", messages }), /model 'nothere' not found/);

// abort() must end the stream here and free the place there
const endless = await ollama.generate({ model: "tiny", prompt: "x", stream: true, options: { num_predict: 1000000 } });
let seen = 0;
await assert.rejects(async () => {
  for await (const part of endless) if (part.response && ++seen === 5) endless.abort();
}, { name: "AbortError" });

assert.ok((await ollama.ps()).models.length > 0);
await ollama.generate({ model: "tiny-hello", prompt: "", keep_alive: 0 });
console.log("ok");
