// Ollama's own JavaScript client: one object of results on standard output, checked by test_js_client.py.
import { Ollama } from 'ollama'

const [host, model, tokens] = process.argv.slice(2)
const client = new Ollama({ host })
const options = { temperature: 0, num_predict: Number(tokens) }
const out = {}

out.list = (await client.list()).models.map((m) => m.model)
out.show = (await client.show({ model })).model_info['general.architecture']
// Twice: what is cached of a prompt changes the sizes of the steps, and with them how sums round.
for (let i = 0; i < 2; i++) out.whole = await client.generate({ model, prompt: 'The capital of France is', options })

out.pieces = []
for await (const piece of await client.generate({ model, prompt: 'The capital of France is', options, stream: true })) {
  out.pieces.push(piece)
}

out.chat = ''
const messages = [{ role: 'user', content: 'Say hello.' }]
for await (const piece of await client.chat({ model, messages, options, stream: true })) out.chat += piece.message.content

try {
  await client.generate({ model: 'nosuch', prompt: 'x' })
} catch (problem) {
  out.problem = { status: problem.status_code, text: problem.message }
}

// Aborting in the middle of a stream must leave the server ready for the next request.
const aborted = await client.generate({ model, prompt: 'Write a very long story.', stream: true, options: { num_predict: 2000 } })
try {
  for await (const piece of aborted) aborted.abort()
} catch (problem) {
  out.aborted = problem.name
}
out.after = (await client.generate({ model, prompt: 'Hi', options })).done

console.log(JSON.stringify(out))
