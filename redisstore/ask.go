package redisstore

import (
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"loopmq/store"
)

//go:embed lua/tell.lua
var tellLua string

var tellScript = newScript(generationLua, tellLua)

const (
	// maxQuestions is how many questions are answered at a time; the next is dropped, and
	// whoever asked gives up waiting.
	maxQuestions = 16
	// answerTimeout is how long sending an answer may take. Nobody waits any more then.
	answerTimeout = 5 * time.Second
)

// questions are those that were asked and not answered yet, and a place for each of
// those that are being answered.
type questions struct {
	places chan struct{}

	mu struct {
		sync.Mutex
		last    uint64
		waiting map[string]chan string // by the ID of the question
	}
}

func (q *questions) init() {
	q.places = make(chan struct{}, maxQuestions)
	q.mu.waiting = map[string]chan string{}
}

// begin makes a new question. end forgets it.
func (q *questions) begin() (id string, answer <-chan string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.mu.last++
	id = strconv.FormatUint(q.mu.last, 10)
	ch := make(chan string, 1)
	q.mu.waiting[id] = ch
	return id, ch
}

func (q *questions) end(id string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.mu.waiting, id)
}

func (q *questions) answered(id, answer string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if ch := q.mu.waiting[id]; ch != nil {
		ch <- answer // there is one answer, and room for it
		delete(q.mu.waiting, id)
	}
}

// tell puts an entry into another instance's ctl stream. store.ErrGone: it isn't there
// any more.
func (m *member) tell(ctx context.Context, instance string, entry ...any) error {
	found, err := tellScript.Run(ctx, m.client, m.keys.declared(), append([]any{m.keys.prefix, instance}, entry...)...).Bool()
	switch {
	case err != nil:
		return failed("tell "+instance, err)
	case !found:
		return store.ErrGone
	}
	return nil
}

// Ask implements [store.Member].
func (m *member) Ask(ctx context.Context, instance string, question []byte) ([]byte, error) {
	if len(question) > store.AnswerMax {
		return nil, fmt.Errorf("redisstore: a question of %d bytes; allowed: %d", len(question), store.AnswerMax)
	}
	if !m.Alive(instance) {
		return nil, store.ErrGone
	}
	id, answer := m.questions.begin()
	defer m.questions.end(id)
	if err := m.tell(ctx, instance, ctlAsk, id, "from", m.instance, "data", question); err != nil {
		return nil, err
	}
	select {
	case a := <-answer:
		return []byte(a), nil
	case <-m.ctx.Done():
		return nil, store.ErrDead
	case <-ctx.Done():
		return nil, fmt.Errorf("instance %s has not answered: %w", instance, ctx.Err())
	}
}

// answer has a question answered, if there is a place.
func (m *member) answer(id, from, question string) {
	select {
	case m.questions.places <- struct{}{}:
	default:
		m.log.Warn("answer", "instance", m.instance, "to", from, "error", "too many questions at a time")
		return
	}
	m.spawn(func() {
		defer func() { <-m.questions.places }()
		a := m.node.Asked([]byte(question))
		ctx, cancel := context.WithTimeout(m.ctx, answerTimeout)
		defer cancel()
		if err := m.tell(ctx, from, ctlAnswer, id, "data", a[:min(len(a), store.AnswerMax)]); err != nil {
			m.log.Debug("answer", "instance", m.instance, "to", from, "error", err)
		}
	})
}

// Instances implements [store.Member].
func (m *member) Instances(ctx context.Context) ([]store.Instance, error) {
	pipe := m.client.Pipeline()
	leases, dead := pipe.ZRangeWithScores(ctx, m.keys.leases(), 0, -1), pipe.HKeys(ctx, m.keys.dead())
	reports := pipe.HGetAll(ctx, m.keys.reports())
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, failed("list instances", err)
	}
	var list []store.Instance
	for _, lease := range leases.Val() {
		name, _ := lease.Member.(string)
		list = append(list, store.Instance{Name: name, Lapses: fromMillis(int64(lease.Score))})
	}
	for _, name := range dead.Val() {
		list = append(list, store.Instance{Name: name})
	}
	for i := range list {
		if report, ok := reports.Val()[list[i].Name]; ok {
			list[i].Report = []byte(report)
		}
	}
	slices.SortFunc(list, func(a, b store.Instance) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}
