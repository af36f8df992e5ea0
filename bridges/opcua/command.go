package opcuabridge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"

	"loopmq"
	"loopmq/codec"
	"loopmq/metrics"
	"loopmq/store"
	"loopmq/trie"
)

// commandsMax is how many commands wait for those before them.
const commandsMax = 256

// supertypesMax is how many supertypes a DataType may have up to a built-in one.
const supertypesMax = 16

// commander has the messages that write nodes and call methods, one at a time, in their order. They come by a session that
// ends with the endpoint's: a command that nobody has executed when it was given is not one for later.
type commander struct {
	link    *link
	client  *loopmq.LocalClient
	replies *trie.Trie[struct{}] // nil: to any topic
	calls   map[string]*Call

	waiting chan command
	working sync.WaitGroup
}

// command is a message.
type command struct {
	topic       string
	payload     []byte
	reply       string // the Response Topic
	correlation []byte
	id          loopmq.DeliveryID
}

// newCommander connects the endpoint to the broker, until close. over is called when the broker ends that.
func newCommander(ctx context.Context, l *link, over context.CancelCauseFunc) (*commander, error) {
	e := l.endpoint
	c := &commander{link: l, calls: make(map[string]*Call), waiting: make(chan command, commandsMax)}
	var subscriptions []store.Subscription
	subscribe := func(filter string) {
		if !slices.ContainsFunc(subscriptions, func(s store.Subscription) bool { return s.TopicFilter == filter }) {
			subscriptions = append(subscriptions, store.Subscription{
				// No retained message: a command would be repeated at each start. Nothing that the endpoint itself publishes:
				// its values would be commands.
				TopicFilter: filter, Options: codec.SubscriptionOptions{QoS: 1, NoLocal: true, RetainHandling: 2},
			})
		}
	}
	for i := range e.Mappings {
		if t := e.Mappings[i].writeTopic; t != nil {
			subscribe(t.filter())
		}
	}
	for i := range e.Calls {
		c.calls[e.Calls[i].topic] = &e.Calls[i]
		subscribe(e.Calls[i].topic)
	}
	if len(e.ResponseTopics) > 0 {
		c.replies = trie.New[struct{}]()
		for _, f := range e.ResponseTopics {
			c.replies.Subscribe(f, struct{}{}, trie.Options{})
		}
	}
	var err error
	c.client, err = l.caller.Connect(ctx, loopmq.LocalOptions{ClientID: ClientID(e.Name), CleanStart: true, ReceiveMaximum: commandsMax / 2}, loopmq.LocalHandler{
		OnMessage: c.take,
		OnClosed:  func(reason error) { over(reason) },
	})
	if err != nil {
		return nil, err
	}
	c.working.Go(func() { c.work(ctx) })
	for some := range slices.Chunk(subscriptions, 100) {
		reasons, err := c.client.Subscribe(ctx, some)
		for i, r := range reasons {
			if r >= codec.UnspecifiedError && err == nil {
				err = fmt.Errorf("subscribe to %s: %s", some[i].TopicFilter, r)
			}
		}
		if err != nil {
			over(err)
			c.close()
			return nil, err
		}
	}
	return c, nil
}

// close ends the session. What waits is not executed.
func (c *commander) close() {
	c.client.End()
	c.working.Wait()
}

// take is called on an event loop.
func (c *commander) take(m *loopmq.MessageView, id loopmq.DeliveryID, _ bool) bool {
	var p codec.Properties
	if err := m.Properties(&p); err != nil { // it was checked when it came
		return true
	}
	cmd := command{topic: string(m.TopicName), payload: m.Payload, reply: string(p.ResponseTopic), id: id}
	if p.Has(codec.PropCorrelationData) {
		cmd.correlation = append([]byte{}, p.CorrelationData...)
	}
	select {
	case c.waiting <- cmd:
		return true
	default:
		return false
	}
}

// work executes commands until ctx ends.
func (c *commander) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case cmd := <-c.waiting:
			c.client.Ready()
			a := c.execute(ctx, &cmd)
			if ctx.Err() != nil {
				return
			}
			c.count(a)
			c.answer(ctx, &cmd, a)
			if !cmd.id.IsZero() {
				c.client.Acknowledge(cmd.id)
			}
		}
	}
}

// result is what became of a command.
type result struct {
	Status     string            `json:"status"`
	StatusCode uint32            `json:"status_code"`
	Error      string            `json:"error,omitempty"`
	Outputs    []json.RawMessage `json:"outputs,omitempty"`

	refused bool
}

func resultOf(s ua.StatusCode) result { return result{Status: statusName(s), StatusCode: uint32(s)} }

// failed is the result of a command that came to no status of its own.
func failed(err error) result {
	var r *refusal
	var s ua.StatusCode
	switch {
	case errors.As(err, &r):
		a := resultOf(r.status)
		a.Error, a.refused = r.text, true
		return a
	case errors.As(err, &s):
		return resultOf(s)
	case errors.Is(err, context.DeadlineExceeded):
		return resultOf(ua.StatusBadTimeout)
	}
	a := resultOf(ua.StatusBadCommunicationError)
	a.Error = err.Error()
	return a
}

func (c *commander) count(a result) {
	m := c.link.holder.metrics
	switch {
	case a.refused:
		m.Commands[metrics.OPCUACommandRefused].Inc()
	case isBad(ua.StatusCode(a.StatusCode)):
		m.Commands[metrics.OPCUACommandFailed].Inc()
	default:
		m.Commands[metrics.OPCUAGood].Inc()
	}
}

// answer publishes a result to the Response Topic, if there is one.
func (c *commander) answer(ctx context.Context, cmd *command, a result) {
	if cmd.reply == "" {
		return
	}
	payload, err := json.Marshal(&a)
	if err == nil && !c.allows(cmd.reply) {
		err = errors.New("the Response Topic is none of those that may be replied to")
	}
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, statusTimeout)
		defer cancel()
		_, err = c.link.caller.Publish(ctx, &loopmq.Message{
			TopicName: cmd.reply, Payload: payload, QoS: 1, ContentType: "application/json", PayloadFormatIndicator: 1, CorrelationData: cmd.correlation,
		})
	}
	if err != nil {
		c.link.holder.metrics.RepliesFailed.Inc()
		c.link.holder.log.Debug("opcua_reply_failed", "topic", cmd.reply, "error", err)
	}
}

func (c *commander) allows(topic string) bool {
	if c.replies == nil {
		return true
	}
	var m trie.Matches[struct{}]
	c.replies.Match([]byte(topic), &m)
	return len(m.Subscribers) > 0
}

// execute writes a node, or calls a method.
func (c *commander) execute(ctx context.Context, cmd *command) result {
	l := c.link.live.Load()
	if l == nil {
		return failed(ua.StatusBadServerNotConnected)
	}
	if call := c.calls[cmd.topic]; call != nil {
		return c.call(ctx, l, call, cmd.payload)
	}
	it := l.writes[cmd.topic]
	if it == nil {
		return failed(refuse(ua.StatusBadNodeIDUnknown, "no node is written by this topic"))
	}
	return c.write(ctx, l, it, cmd.payload)
}

func (c *commander) write(ctx context.Context, l *live, it *item, payload []byte) result {
	t, err := c.typeOf(ctx, l, it)
	if err != nil {
		return failed(err)
	}
	v, err := decodeValue(payload, it.mapping.Format, t)
	if err != nil {
		return failed(err)
	}
	res, err := send[ua.WriteResponse](ctx, l.client, c.link.endpoint.RequestTimeout, &ua.WriteRequest{NodesToWrite: []*ua.WriteValue{{
		NodeID: it.node, AttributeID: ua.AttributeIDValue, Value: &ua.DataValue{EncodingMask: ua.DataValueValue, Value: v},
	}}})
	if err == nil && len(res.Results) != 1 {
		err = errResponse
	}
	if err != nil {
		return failed(err)
	}
	return resultOf(res.Results[0])
}

// typeOf returns what a variable takes.
func (c *commander) typeOf(ctx context.Context, l *live, it *item) (dataType, error) {
	key := it.node.String() + " " + it.mapping.Type
	if t, ok := l.types[key]; ok {
		return t, nil
	}
	read := func(a ua.AttributeID) (any, error) {
		values, err := c.link.read(ctx, l.client, []*ua.NodeID{it.node}, a)
		switch {
		case err != nil:
			return nil, err
		case values[0] != nil && isBad(values[0].Status):
			return nil, values[0].Status
		}
		return valueOf(values[0]), nil
	}
	v, err := read(ua.AttributeIDDataType)
	if err != nil {
		return dataType{}, err
	}
	node, ok := v.(*ua.NodeID)
	if !ok || node == nil {
		return dataType{}, errResponse
	}
	t := dataType{rank: -2}
	if v, err = read(ua.AttributeIDValueRank); err != nil {
		return dataType{}, err
	}
	if rank, ok := v.(int32); ok {
		t.rank = rank
	}
	if t.builtin, err = c.builtin(ctx, l, node); err != nil {
		return dataType{}, err
	}
	keep := true
	if t.builtin == ua.TypeIDVariant { // the node leaves it open
		if t.builtin = it.mapping.writeType; t.builtin == 0 {
			values, err := c.link.read(ctx, l.client, []*ua.NodeID{it.node}, ua.AttributeIDValue)
			if err != nil {
				return dataType{}, err
			}
			keep = false // its next value may have another type
			if values[0] != nil && values[0].Value != nil {
				t.builtin = values[0].Value.Type()
			}
			if t.builtin == ua.TypeIDNull {
				return dataType{}, refuse(ua.StatusBadTypeMismatch, "the node's DataType is abstract and it has no value: allowed: with a Type in the mapping")
			}
		}
	}
	if keep {
		l.types[key] = t
	}
	return t, nil
}

// builtin returns the built-in type that a DataType is a kind of. TypeIDVariant: it leaves that open.
func (c *commander) builtin(ctx context.Context, l *live, node *ua.NodeID) (ua.TypeID, error) {
	for range supertypesMax {
		if node.Namespace() == 0 && (node.Type() == ua.NodeIDTypeTwoByte || node.Type() == ua.NodeIDTypeFourByte || node.Type() == ua.NodeIDTypeNumeric) {
			switch n := node.IntID(); {
			case n == id.Number || n == id.Integer || n == id.UInteger:
				return ua.TypeIDVariant, nil
			case n == id.Enumeration:
				return ua.TypeIDInt32, nil
			case n > 0 && n <= uint32(ua.TypeIDDiagnosticInfo):
				return ua.TypeID(n), nil
			}
		}
		res, err := send[ua.BrowseResponse](ctx, l.client, c.link.endpoint.RequestTimeout, &ua.BrowseRequest{
			View: &ua.ViewDescription{ViewID: ua.NewTwoByteNodeID(0)}, RequestedMaxReferencesPerNode: 1,
			NodesToBrowse: []*ua.BrowseDescription{{
				NodeID: node, BrowseDirection: ua.BrowseDirectionInverse, ReferenceTypeID: ua.NewNumericNodeID(0, id.HasSubtype), IncludeSubtypes: true,
				ResultMask: uint32(ua.BrowseResultMaskAll),
			}},
		})
		if err != nil {
			return 0, err
		}
		if len(res.Results) != 1 || len(res.Results[0].References) == 0 || res.Results[0].References[0].NodeID == nil {
			break
		}
		node = ua.NewNodeIDFromExpandedNodeID(res.Results[0].References[0].NodeID)
	}
	return 0, refuse(ua.StatusBadDataTypeIDUnknown, "the node's DataType has no built-in supertype")
}

func (c *commander) call(ctx context.Context, l *live, call *Call, payload []byte) result {
	object, err := call.object.in(l.namespaces)
	if err != nil {
		return failed(refuse(ua.StatusBadNodeIDUnknown, "%v", err))
	}
	method, err := call.method.in(l.namespaces)
	if err != nil {
		return failed(refuse(ua.StatusBadNodeIDUnknown, "%v", err))
	}
	arguments, err := c.arguments(ctx, l, call, method)
	if err != nil {
		return failed(err)
	}
	inputs, err := c.inputs(ctx, l, payload, arguments)
	if err != nil {
		return failed(err)
	}
	res, err := send[ua.CallResponse](ctx, l.client, c.link.endpoint.RequestTimeout, &ua.CallRequest{MethodsToCall: []*ua.CallMethodRequest{{
		ObjectID: object, MethodID: method, InputArguments: inputs,
	}}})
	if err == nil && len(res.Results) != 1 {
		err = errResponse
	}
	if err != nil {
		return failed(err)
	}
	r := res.Results[0]
	a := resultOf(r.StatusCode)
	for i, s := range r.InputArgumentResults {
		if isBad(s) && i < len(arguments) {
			a.Error += fmt.Sprintf("%s: %s. ", arguments[i].Name, statusName(s))
		}
	}
	for _, v := range r.OutputArguments {
		out, err := (&encoder{}).variant(nil, v)
		if err != nil {
			out = []byte("null")
		}
		a.Outputs = append(a.Outputs, out)
	}
	return a
}

// arguments returns the InputArguments of a method.
func (c *commander) arguments(ctx context.Context, l *live, call *Call, method *ua.NodeID) ([]ua.Argument, error) {
	if known, ok := l.methods[call]; ok {
		return known, nil
	}
	res, err := send[ua.BrowseResponse](ctx, l.client, c.link.endpoint.RequestTimeout, &ua.BrowseRequest{
		View: &ua.ViewDescription{ViewID: ua.NewTwoByteNodeID(0)},
		NodesToBrowse: []*ua.BrowseDescription{{
			NodeID: method, BrowseDirection: ua.BrowseDirectionForward, ReferenceTypeID: ua.NewNumericNodeID(0, id.HasProperty), IncludeSubtypes: true,
			ResultMask: uint32(ua.BrowseResultMaskAll),
		}},
	})
	switch {
	case err != nil:
		return nil, err
	case len(res.Results) != 1:
		return nil, errResponse
	case isBad(res.Results[0].StatusCode):
		return nil, res.Results[0].StatusCode
	}
	arguments := []ua.Argument{}
	for _, r := range res.Results[0].References {
		if r == nil || r.BrowseName == nil || r.BrowseName.Name != "InputArguments" || r.NodeID == nil {
			continue
		}
		values, err := c.link.read(ctx, l.client, []*ua.NodeID{ua.NewNodeIDFromExpandedNodeID(r.NodeID)}, ua.AttributeIDValue)
		if err != nil {
			return nil, err
		}
		objects, _ := valueOf(values[0]).([]*ua.ExtensionObject)
		for _, o := range objects {
			if o == nil {
				return nil, errResponse
			}
			a, ok := o.Value.(*ua.Argument)
			if !ok || a.DataType == nil {
				return nil, errResponse
			}
			arguments = append(arguments, *a)
		}
	}
	l.methods[call] = arguments
	return arguments, nil
}

// inputs makes a payload the arguments of a method.
func (c *commander) inputs(ctx context.Context, l *live, payload []byte, arguments []ua.Argument) ([]*ua.Variant, error) {
	if len(bytes.TrimSpace(payload)) == 0 {
		payload = []byte("[]")
	}
	v, err := parseJSON(payload)
	if err != nil {
		return nil, err
	}
	var values []any
	switch x := v.(type) {
	case []any:
		values = x
	case map[string]any:
		for i := range arguments {
			value, ok := x[arguments[i].Name]
			if !ok {
				return nil, refuse(ua.StatusBadArgumentsMissing, "the argument %q is missing", arguments[i].Name)
			}
			values = append(values, value)
		}
		if len(x) > len(values) {
			return nil, refuse(ua.StatusBadTooManyArguments, "%d arguments are expected", len(arguments))
		}
	default:
		return nil, refuse(ua.StatusBadDecodingError, "the payload is neither a list nor an object")
	}
	switch {
	case len(values) < len(arguments):
		return nil, refuse(ua.StatusBadArgumentsMissing, "%d arguments are expected", len(arguments))
	case len(values) > len(arguments):
		return nil, refuse(ua.StatusBadTooManyArguments, "%d arguments are expected", len(arguments))
	}
	inputs := make([]*ua.Variant, len(arguments))
	for i := range arguments {
		a := &arguments[i]
		builtin, err := c.builtin(ctx, l, a.DataType)
		if err != nil {
			return nil, err
		}
		if inputs[i], err = variantOf(values[i], dataType{builtin, a.ValueRank}); err != nil {
			var r *refusal
			if errors.As(err, &r) {
				return nil, refuse(r.status, "%s: %s", a.Name, r.text)
			}
			return nil, err
		}
	}
	return inputs, nil
}

// describe returns an error as the standard writes it, if it is one of the standard's.
func describe(err error) string {
	var s ua.StatusCode
	if errors.As(err, &s) {
		return statusName(s)
	}
	return err.Error()
}
