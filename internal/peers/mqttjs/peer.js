// Drives MQTT.js for the Go tests: a request is a line of JSON on standard input, its answer and what happens to the clients are lines
// on standard output. Large payloads travel in files.
'use strict'

const fs = require('node:fs')
const path = require('node:path')
const readline = require('node:readline')
const mqtt = require('mqtt')

const inLine = 64 * 1024 // payloads up to this size are in the lines
const directory = process.argv[2]
const clients = new Map()
let files = 0

const say = (line) => process.stdout.write(JSON.stringify(line) + '\n')

const payloadOf = (r) => (r.file ? fs.readFileSync(r.file) : Buffer.from(r.payload || '', 'base64'))

// toProperties turns the test's words into those of MQTT.js, which has User Properties as an object.
function toProperties (p) {
  const { user, correlationData, ...rest } = p || {}
  if (correlationData) rest.correlationData = Buffer.from(correlationData, 'base64')
  if (user) {
    rest.userProperties = {}
    for (const { Key, Value } of user) (rest.userProperties[Key] ||= []).push(Value)
  }
  return rest
}

function fromProperties (p) {
  const { userProperties, correlationData, subscriptionIdentifier, ...rest } = p || {}
  if (correlationData) rest.correlationData = correlationData.toString('base64')
  if (subscriptionIdentifier !== undefined) rest.subscriptionIdentifier = [subscriptionIdentifier].flat()
  rest.user = Object.entries(userProperties || {}).flatMap(([Key, values]) => [values].flat().map((Value) => ({ Key, Value })))
  return rest
}

function received (name, topic, payload, packet) {
  const m = { client: name, event: 'message', topic, qos: packet.qos, retain: packet.retain, properties: fromProperties(packet.properties) }
  if (payload.length > inLine) {
    m.file = path.join(directory, `received-${files++}`)
    fs.writeFileSync(m.file, payload)
  } else {
    m.payload = payload.toString('base64')
  }
  say(m)
}

const operations = {
  connect (r, done) {
    const o = r.options
    if (o.will) o.will = { ...o.will, payload: payloadOf(o.will), properties: toProperties(o.will.properties) }
    const client = mqtt.connect(r.url, o)
    clients.set(r.client, client)
    let reason = 0
    client.on('message', (topic, payload, packet) => received(r.client, topic, payload, packet))
    client.on('disconnect', (packet) => { reason = packet.reasonCode })
    client.on('close', () => say({ client: r.client, event: 'close', reason }))
    client.once('error', (e) => done(e)) // of the CONNECT; later ones end in 'close'
    client.on('error', () => {})
    client.once('connect', (connack) => done(null, { sessionPresent: connack.sessionPresent, responseInformation: connack.properties?.responseInformation }))
  },
  subscribe (r, done) {
    clients.get(r.client).subscribe(r.filter, r.options, (e, granted) => done(e, { granted: granted?.[0]?.qos }))
  },
  publish (r, done) {
    clients.get(r.client).publish(r.topic, payloadOf(r), { qos: r.qos, retain: r.retain, properties: toProperties(r.properties) }, (e) => done(e))
  },
  disconnect (r, done) {
    clients.get(r.client).end(false, {}, () => done(null))
  },
  kill (r, done) {
    const client = clients.get(r.client)
    clients.delete(r.client)
    if (client?.stream && !client.stream.destroyed) client.stream.destroy()
    done(null)
  }
}

readline.createInterface({ input: process.stdin, terminal: false }).on('line', (line) => {
  const r = JSON.parse(line)
  let answered = false
  const done = (error, answer) => {
    if (answered) return
    answered = true
    say({ n: r.n, error: error ? String(error) : undefined, ...answer })
  }
  try {
    operations[r.op](r, done)
  } catch (e) {
    done(e)
  }
}).on('close', () => process.exit(0))
