package redisstore

import (
	"context"
	"time"

	"loopmq/store"
)

type retainedView struct{ *Store }

func (v retainedView) Read(ctx context.Context, topicNames []string) ([]*store.Message, error) {
	messages := make([]*store.Message, len(topicNames))
	err := v.call("read retained messages", func() error {
		now := v.Now()
		for begin := 0; begin < len(topicNames); begin += listPage {
			page := topicNames[begin:min(begin+listPage, len(topicNames))]
			names := make([]string, len(page))
			for i, topicName := range page {
				names[i] = v.keys.retainedMessage(topicName)
			}
			values, err := v.redis.MGet(ctx, names...).Result()
			if err != nil {
				return err
			}
			for i, value := range values {
				encoded, ok := value.(string)
				if !ok {
					continue
				}
				m, err := decodeMessage(encoded)
				if err != nil {
					return err
				}
				if !m.Expired(now) {
					messages[begin+i] = m
				}
			}
		}
		return nil
	})
	return messages, err
}

func (v retainedView) List(ctx context.Context, afterTopicName string, limit int) ([]string, error) {
	var list []string
	err := v.call("list retained messages", func() error {
		return pages(ctx, v.redis, v.keys.retained(), afterTopicName, limit, func(topicNames []string) (int, error) {
			list = append(list, topicNames...)
			return len(topicNames), nil
		})
	})
	return list, err
}

func (v retainedView) Expired(ctx context.Context, now time.Time, limit int) ([]string, error) {
	var list []string
	err := v.call("list expired retained messages", func() (err error) {
		list, err = v.due(ctx, v.keys.retainedExpiry(), now, limit)
		return err
	})
	return list, err
}
