// An OPC UA server for tests. Its options are a JSON object, the first argument; it prints a line when it listens, and reads
// commands, a line of JSON each, from its standard input, which it answers with a line each.
"use strict";

const fs = require("fs");
const readline = require("readline");
const opcua = require("node-opcua");

const { Variant, DataType, VariantArrayType, StatusCodes } = opcua;
const options = JSON.parse(process.argv[2]);

// A process that lost its test ends too.
process.stdin.on("end", () => process.exit(0));

function users() {
  if (!options.username) return undefined;
  return { isValidUser: (name, password) => name === options.username && password === options.password };
}

// space makes the nodes. With extra namespaces before it, the indexes are others than without.
function space(server) {
  const addressSpace = server.engine.addressSpace;
  for (const uri of options.before || []) addressSpace.registerNamespace(uri);
  const ns = addressSpace.registerNamespace("urn:plant");
  const plant = ns.addObject({ organizedBy: addressSpace.rootFolder.objects, browseName: "Plant", nodeId: "s=Plant" });
  const boiler = ns.addObject({ componentOf: plant, browseName: "Boiler/1", nodeId: "s=Boiler" });
  const variables = {};
  const add = (parent, name, dataType, value, more) => {
    const v = ns.addVariable({
      componentOf: parent, browseName: name, nodeId: "s=" + name, dataType, minimumSamplingInterval: 10,
      accessLevel: "CurrentRead | CurrentWrite", userAccessLevel: "CurrentRead | CurrentWrite", ...more,
    });
    v.setValueFromSource({ dataType, value, ...(more && more.variant) });
    variables[name] = v;
  };
  add(boiler, "Temperature", DataType.Double, 20.5);
  add(boiler, "Pressure", DataType.Float, 1.5);
  add(plant, "Count", DataType.Int16, 0);
  add(plant, "Name", DataType.String, "one");
  add(plant, "Open", DataType.Boolean, false);
  add(plant, "Big", DataType.UInt64, [0, 7], { variant: { arrayType: VariantArrayType.Scalar } });
  add(plant, "List", DataType.Int32, new Int32Array([1, 2, 3]), {
    valueRank: 1, arrayDimensions: [3], variant: { arrayType: VariantArrayType.Array },
  });
  add(plant, "Span", DataType.Double, 1, { dataType: "Duration" });
  for (let i = 0; i < (options.many || 0); i++) add(plant, "Many" + i, DataType.Int32, i);
  if (options.late) {
    setTimeout(() => add(plant, "Late", DataType.Int32, 1), options.late);
  }
  const method = ns.addMethod(plant, {
    browseName: "Add", nodeId: "s=Add",
    inputArguments: [{ name: "a", dataType: DataType.Int32 }, { name: "b", dataType: DataType.Double }],
    outputArguments: [{ name: "sum", dataType: DataType.Double }],
  });
  method.bindMethod((inputs, context, done) => {
    const sum = inputs[0].value + inputs[1].value;
    done(null, { statusCode: StatusCodes.Good, outputArguments: [{ dataType: DataType.Double, value: sum }] });
  });
  return variables;
}

async function main() {
  const certificates = new opcua.OPCUACertificateManager({
    rootFolder: options.pki, automaticallyAcceptUnknownCertificate: !options.trust,
  });
  await certificates.initialize();
  for (const file of options.trust || []) await certificates.trustCertificate(fs.readFileSync(file));
  const server = new opcua.OPCUAServer({
    port: options.port, hostname: "127.0.0.1", host: "127.0.0.1", resourcePath: "/UA/Test",
    serverInfo: { applicationUri: options.uri || "urn:test:server" },
    serverCertificateManager: certificates, userCertificateManager: certificates,
    certificateFile: options.certificate, privateKeyFile: options.key,
    userManager: users(), allowAnonymous: !options.username, skipOwnNamespace: true,
    serverCapabilities: { maxSessions: 50, maxMonitoredItems: 100000 },
    buildInfo: {},
  });
  await server.initialize();
  const variables = space(server);
  await server.start();
  process.stdout.write(JSON.stringify({ ready: server.endpoints[0].port }) + "\n");

  const commands = {
    set({ name, value }) {
      const v = variables[name];
      v.setValueFromSource({ dataType: v.readValue().value.dataType, value, arrayType: v.readValue().value.arrayType });
    },
    // all gives the options.many variables another value.
    all({ value }) {
      for (let i = 0; i < options.many; i++) variables["Many" + i].setValueFromSource({ dataType: DataType.Int32, value });
    },
    bad({ name }) {
      const v = variables[name];
      v.setValueFromSource(v.readValue().value, StatusCodes.BadSensorFailure);
    },
    get({ name }) {
      const value = variables[name].readValue().value.value;
      return ArrayBuffer.isView(value) ? Array.from(value) : value;
    },
    sessions() {
      return server.engine.currentSessionCount;
    },
    // queued reports whether a value waits in the queue of an item, of those with a queue of more than 10.
    queued({ name, value }) {
      for (const session of Object.values(server.engine._sessions)) {
        for (const subscription of session.publishEngine.subscriptions) {
          for (const item of subscription.monitoredItems.values()) {
            if (item.node !== variables[name] || item.queueSize <= 10) continue;
            const waiting = [...item.queue];
            subscription._pending_notifications.filterOut((p) => (p.monitoredItemId === item.monitoredItemId && waiting.push(p.notification), false));
            if (waiting.some((n) => n.value.value.value === value)) return true;
          }
        }
      }
      return false;
    },
    // end forgets all sessions, with their subscriptions.
    end() {
      for (const s of Object.values(server.engine._sessions)) server.engine.closeSession(s.authenticationToken, true, "Terminated");
    },
  };
  readline.createInterface({ input: process.stdin }).on("line", (line) => {
    const c = JSON.parse(line);
    try {
      const value = commands[c.do](c);
      console.log(JSON.stringify({ value: value === undefined ? null : value }));
    } catch (e) {
      console.log(JSON.stringify({ error: String(e) }));
    }
  });
}

main().catch((e) => {
  console.error(e);
  process.exit(1);
});
