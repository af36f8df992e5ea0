// An OPC UA client for tests. It reads commands, a line of JSON each, from its standard input, and answers each with a line;
// changes of what it monitors are lines of their own.
"use strict";

const readline = require("readline");
const opcua = require("node-opcua");

const { AttributeIds, ClientSubscription, ClientMonitoredItem, TimestampsToReturn, DataType } = opcua;

// A process that lost its test ends too.
process.stdin.on("end", () => process.exit(0));

let client, session, subscription;
const items = [];

const plain = (v) => (v instanceof Buffer ? { bytes: v.toString("base64") } : Array.isArray(v) && v.length === 2 && Number.isInteger(v[0]) ? v[0] * 2 ** 32 + v[1] : v);

const value = (d) => ({
  value: d.value && d.value.value !== undefined ? plain(d.value.value) : null,
  type: d.value ? DataType[d.value.dataType] : "Null",
  status: d.statusCode.name,
  source: d.sourceTimestamp ? d.sourceTimestamp.toISOString() : null,
  server: d.serverTimestamp ? d.serverTimestamp.toISOString() : null,
});

const commands = {
  async connect(c) {
    const certificates = new opcua.OPCUACertificateManager({ rootFolder: c.pki, automaticallyAcceptUnknownCertificate: true });
    await certificates.initialize();
    client = opcua.OPCUAClient.create({
      applicationName: "test", applicationUri: c.uri || "urn:test:client", clientCertificateManager: certificates,
      securityMode: c.mode || "None", securityPolicy: c.policy || "None", certificateFile: c.certificate, privateKeyFile: c.key,
      connectionStrategy: { maxRetry: c.retries === undefined ? 0 : c.retries, initialDelay: 100, maxDelay: 500 }, endpointMustExist: false, requestedSessionTimeout: 60000,
      transportTimeout: 60000, defaultSecureTokenLifetime: c.lifetime || 600000, keepSessionAlive: true,
    });
    await client.connect(c.url);
    session = await client.createSession(c.username ? { type: opcua.UserTokenType.UserName, userName: c.username, password: c.password } : undefined);
  },
  async read(c) {
    return (await session.read(c.nodes.map((nodeId) => ({ nodeId, attributeId: AttributeIds[c.attribute || "Value"] })))).map(value);
  },
  async write(c) {
    return (await session.write({ nodeId: c.node, attributeId: AttributeIds.Value, value: { value: { dataType: DataType[c.type], value: c.type === "DateTime" ? new Date(c.value) : c.value } } })).name;
  },
  async browse(c) {
    const names = [];
    let r = await session.browse({ nodeId: c.node, browseDirection: "Forward", referenceTypeId: "HierarchicalReferences", includeSubtypes: true, resultMask: 63 });
    for (;;) {
      for (const f of r.references || []) names.push(f.nodeId.toString() + " " + f.browseName.toString());
      if (!r.continuationPoint || r.continuationPoint.length === 0) return names;
      r = await session.browseNext(r.continuationPoint, false);
    }
  },
  async translate(c) {
    const r = await session.translateBrowsePath(opcua.makeBrowsePath("RootFolder", c.path));
    return r.statusCode.name === "Good" ? r.targets[0].targetId.toString() : r.statusCode.name;
  },
  async monitor(c) {
    if (!subscription) {
      subscription = await session.createSubscription2({
        requestedPublishingInterval: c.interval || 100, requestedLifetimeCount: 1000, requestedMaxKeepAliveCount: 10, maxNotificationsPerPublish: c.most || 0, publishingEnabled: true, priority: 1,
      });
      subscription.on("terminated", () => console.log(JSON.stringify({ event: "terminated" })));
    }
    const monitored = await subscription.monitor(
      { nodeId: c.node, attributeId: AttributeIds.Value }, { samplingInterval: 0, queueSize: c.queue || 1, discardOldest: true }, TimestampsToReturn.Both);
    monitored.on("changed", (d) => console.log(JSON.stringify({ event: "changed", node: c.node, ...value(d) })));
    items.push(monitored);
    return monitored.statusCode.name;
  },
  async modify(c) {
    const r = await items[c.index].modify({ samplingInterval: 0, queueSize: c.queue, discardOldest: true, clientHandle: items[c.index].monitoringParameters.clientHandle });
    return r.statusCode.name;
  },
  async mode(c) {
    await items[c.index].setMonitoringMode(opcua.MonitoringMode[c.mode]);
  },
  async unmonitor(c) {
    await items[c.index].terminate();
  },
  async call() {
    const r = await session.call({ objectId: "i=2253", methodId: "i=11492", inputArguments: [{ dataType: DataType.UInt32, value: 1 }] });
    return r.statusCode.name;
  },
  async endpoints() {
    return (await client.getEndpoints()).map((e) => e.securityPolicyUri.split("#")[1] + " " + opcua.MessageSecurityMode[e.securityMode]);
  },
  async close() {
    if (session) await session.close();
    if (client) await client.disconnect();
    session = subscription = undefined;
  },
};

let last = Promise.resolve();
readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const c = JSON.parse(line);
  last = last.then(async () => {
    try {
      const v = await commands[c.do](c);
      console.log(JSON.stringify({ value: v === undefined ? null : v }));
    } catch (e) {
      console.log(JSON.stringify({ error: String(e && e.message ? e.message : e) }));
    }
  });
});
console.log(JSON.stringify({ ready: true }));
