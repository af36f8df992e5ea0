// A function that loopmq calls: it verifies the signature of a request, and answers the message that is in it. It needs
// nothing but Node.
//
//     LOOPMQ_SECRET=whsec_… node function.mjs 9090
//
// A device asks with {"celsius": 21.5}, and gets {"fahrenheit": 70.7}. main.go does the same for Go.
import { createHmac, timingSafeEqual } from 'node:crypto'
import { createServer } from 'node:http'

const bodyMax = 1 << 20
const tolerance = 5 * 60 // seconds between the clocks of loopmq and of this function

const secret = Buffer.from((process.env.LOOPMQ_SECRET ?? '').replace(/^whsec_/, ''), 'base64')
if (secret.length === 0) {
  console.error('LOOPMQ_SECRET has no secret, such as whsec_…')
  process.exit(2)
}

// verify checks the signature of a request, as Standard Webhooks has it: https://www.standardwebhooks.com
function verify(headers, body) {
  const id = headers['webhook-id'] ?? ''
  const timestamp = headers['webhook-timestamp'] ?? ''
  if (!/^\d+$/.test(timestamp) || Math.abs(Date.now() / 1000 - Number(timestamp)) > tolerance) return false
  const want = createHmac('sha256', secret).update(`${id}.${timestamp}.`).update(body).digest()
  return (headers['webhook-signature'] ?? '').split(' ').some((signature) => { // one for each secret
    const [version, text] = signature.split(',')
    const got = Buffer.from(text ?? '', 'base64')
    return version === 'v1' && got.length === want.length && timingSafeEqual(got, want)
  })
}

// answer is the function: a status, and a body. A request that comes a second time has the same webhook-id: who must not
// do a thing twice remembers them.
function answer(headers, body) {
  if (!verify(headers, body)) return [401, 'the signature is wrong']
  let event
  try {
    event = JSON.parse(body)
  } catch {
    return [400, "the event can't be read"]
  }
  if (event?.type !== 'io.loopmq.message.published' || !event.responsetopic) return [204] // nobody waits for an answer
  const celsius = event.data?.celsius
  if (typeof celsius !== 'number') return [422, 'celsius is missing']
  return [200, { fahrenheit: Math.round((celsius * 9 / 5 + 32) * 10) / 10 }]
}

const server = createServer((request, response) => {
  const parts = []
  let size = 0
  request.on('data', (part) => {
    size += part.length
    if (size > bodyMax) request.destroy()
    parts.push(part)
  })
  request.on('error', () => {})
  request.on('end', () => {
    const [status, body] = answer(request.headers, Buffer.concat(parts))
    if (typeof body === 'object') {
      response.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(body))
    } else {
      response.writeHead(status, { 'Content-Type': 'text/plain' }).end(body)
    }
  })
})
server.listen(Number(process.argv[2] ?? 9090), '127.0.0.1', () => {
  console.log(`listening on 127.0.0.1:${server.address().port}`)
})
