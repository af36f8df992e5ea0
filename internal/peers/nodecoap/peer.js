// Drives coap of npm for the Go tests: a request is a line of JSON on standard input, its answer and the notifications of what it observes
// are lines on standard output.
'use strict'

const dgram = require('node:dgram')
const readline = require('node:readline')
const coap = require('coap')

const agent = new coap.Agent({ socket: dgram.createSocket('udp4') }) // one of its own it would close too soon
const observations = new Map()
const say = (line) => process.stdout.write(JSON.stringify(line) + '\n')

function request (r) {
  const req = coap.request({
    hostname: r.host, port: r.port, method: r.method, pathname: r.path, query: r.query,
    observe: r.observe, confirmable: r.confirmable, agent
  })
  for (const [name, value] of Object.entries(r.options || {})) {
    req.setOption(name, typeof value === 'number' ? Buffer.of(value) : value)
  }
  const answer = (res, payload) => say({
    n: r.n,
    code: res.code,
    payload: payload.toString('base64'),
    location: res.options.filter((o) => o.name === 'Location-Path').map((o) => '/' + o.value).join(''), // headers have the last part only
    format: res.headers['Content-Format']
  })
  req.on('error', (e) => say({ n: r.n, error: String(e) }))
  req.on('timeout', (e) => say({ n: r.n, error: String(e) }))
  req.on('response', (res) => {
    if (!r.observe) return answer(res, res.payload)
    observations.set(r.n, res)
    res.on('data', (payload) => answer(res, payload)) // the first of them is of the response itself
  })
  req.end(Buffer.from(r.payload || '', 'base64'))
}

const operations = {
  request,
  // forget ends an observation: what comes is reset.
  forget (r) {
    observations.get(r.observation).close()
    say({ n: r.n })
  },
  // cancel ends an observation by a request with Observe 1.
  cancel (r) {
    observations.get(r.observation).close(true)
    say({ n: r.n })
  }
}

readline.createInterface({ input: process.stdin, terminal: false }).on('line', (line) => {
  const r = JSON.parse(line)
  try {
    operations[r.op](r)
  } catch (e) {
    say({ n: r.n, error: String(e) })
  }
}).on('close', () => process.exit(0))
