package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"seawall/tests/kubernetes/harness"
)

// TestTypedErrors provokes errors that programs tell apart by their type, which the client finds by their text.
func TestTypedErrors(t *testing.T) {
	withPrefix(t, func(ctx context.Context, t *testing.T, env *harness.Env, prefix string) {
		client := env.Client(t)
		key := prefix + "key"
		put(ctx, t, client, key, "1")
		revision := put(ctx, t, client, key, "2")
		compact(ctx, t, env, prefix, revision)
		lease, err := client.Grant(ctx, 3600)
		if err != nil {
			t.Fatal(err)
		}
		many := make([]clientv3.Op, 129)
		for i := range many {
			many[i] = clientv3.OpPut(fmt.Sprint(prefix, i), "")
		}

		for _, c := range []struct {
			name     string
			expected error
			call     func() error
		}{
			{"range at a compacted revision", rpctypes.ErrCompacted, func() error {
				_, err := client.Get(ctx, key, clientv3.WithRev(revision-1))
				return err
			}},
			{"list at a compacted revision", rpctypes.ErrCompacted, func() error {
				_, err := client.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(revision-1), clientv3.WithLimit(1))
				return err
			}},
			{"range in a transaction at a compacted revision", rpctypes.ErrCompacted, func() error {
				_, err := client.Txn(ctx).Then(clientv3.OpGet(key, clientv3.WithRev(revision-1))).Commit()
				return err
			}},
			{"range at a future revision", rpctypes.ErrFutureRev, func() error {
				_, err := client.Get(ctx, key, clientv3.WithRev(revision+1000))
				return err
			}},
			{"list at a future revision", rpctypes.ErrFutureRev, func() error {
				_, err := client.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(revision+1000))
				return err
			}},
			{"compact at a future revision", rpctypes.ErrFutureRev, func() error {
				_, err := client.Compact(ctx, revision+100_000)
				return err
			}},
			{"compact at a compacted revision", rpctypes.ErrCompacted, func() error {
				// On the routed target this may be the first compaction of the default cluster.
				if _, err := client.Compact(ctx, 1); err != nil {
					return err
				}
				_, err := client.Compact(ctx, 1)
				return err
			}},
			{"put with an unknown lease", rpctypes.ErrLeaseNotFound, func() error {
				_, err := client.Put(ctx, key, "", clientv3.WithLease(12345))
				return err
			}},
			{"transaction with an unknown lease", rpctypes.ErrLeaseNotFound, func() error {
				_, err := client.Txn(ctx).Then(clientv3.OpPut(key, "", clientv3.WithLease(12345))).Commit()
				return err
			}},
			{"revoke of an unknown lease", rpctypes.ErrLeaseNotFound, func() error {
				_, err := client.Revoke(ctx, 12345)
				return err
			}},
			{"keep-alive of an unknown lease", rpctypes.ErrLeaseNotFound, func() error {
				_, err := client.KeepAliveOnce(ctx, 12345)
				return err
			}},
			{"lease that exists", rpctypes.ErrLeaseExist, func() error {
				_, err := clientv3.RetryLeaseClient(client).LeaseGrant(ctx, grantRequest(lease.ID, 60))
				return err
			}},
			{"lease that is too long", rpctypes.ErrLeaseTTLTooLarge, func() error {
				_, err := client.Grant(ctx, 9_000_000_001)
				return err
			}},
			{"put without a key", rpctypes.ErrEmptyKey, func() error {
				_, err := client.Put(ctx, "", "")
				return err
			}},
			{"transaction without a key", rpctypes.ErrEmptyKey, func() error {
				_, err := client.Txn(ctx).Then(clientv3.OpPut("", "")).Commit()
				return err
			}},
			{"keeping the value of a missing key", rpctypes.ErrKeyNotFound, func() error {
				_, err := client.Put(ctx, prefix+"missing", "", clientv3.WithIgnoreValue())
				return err
			}},
			{"transaction with 129 operations", rpctypes.ErrTooManyOps, func() error {
				_, err := client.Txn(ctx).Then(many...).Commit()
				return err
			}},
			{"transaction that puts a key twice", rpctypes.ErrDuplicateKey, func() error {
				_, err := client.Txn(ctx).Then(clientv3.OpPut(key, "a"), clientv3.OpPut(key, "b")).Commit()
				return err
			}},
			{"transaction that puts and deletes a key", rpctypes.ErrDuplicateKey, func() error {
				_, err := client.Txn(ctx).Then(clientv3.OpPut(key, "a"), clientv3.OpDelete(prefix, clientv3.WithPrefix())).Commit()
				return err
			}},
			{"value beyond etcd's limit", rpctypes.ErrRequestTooLarge, func() error {
				_, err := client.Put(ctx, key, strings.Repeat("x", 1_600_000))
				return err
			}},
			{"unknown user", rpctypes.ErrUserNotFound, func() error {
				_, err := client.UserGet(ctx, "nobody")
				return err
			}},
			{"unknown role", rpctypes.ErrRoleNotFound, func() error {
				_, err := client.RoleGet(ctx, "nobody")
				return err
			}},
			{"authentication that is off", rpctypes.ErrAuthNotEnabled, func() error {
				_, err := client.Authenticate(ctx, "root", "root")
				return err
			}},
			{"unknown member", rpctypes.ErrMemberNotFound, func() error {
				_, err := client.MemberRemove(ctx, 12345)
				return err
			}},
		} {
			if err := c.call(); clientv3Error(err) != c.expected {
				t.Errorf("%s: got %v, expected %v", c.name, err, c.expected)
			}
		}
	})
}

// clientv3Error is what the client makes of a status; calls that go around the client's own types get it here.
func clientv3Error(err error) error {
	if err == nil {
		return nil
	}
	return rpctypes.Error(err)
}

// compact compacts the cluster of a prefix, which for the routed one no client of Seawall can ask for.
func compact(ctx context.Context, t *testing.T, env *harness.Env, prefix string, revision int64) {
	t.Helper()
	client := env.Client(t)
	if env.Target == harness.Routed && env.Owner(prefix) == env.Events {
		client = env.Events.Client(t)
	}
	if _, err := client.Compact(ctx, revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
}

// TestMessageBeyondTheLimit sends more than etcd takes in one message: refused, and the connection goes on.
func TestMessageBeyondTheLimit(t *testing.T) {
	withPrefix(t, func(ctx context.Context, t *testing.T, env *harness.Env, prefix string) {
		client := env.Client(t, func(c *clientv3.Config) { c.MaxCallSendMsgSize = 64 << 20 })
		_, err := client.Put(ctx, prefix+"key", strings.Repeat("x", 10<<20))
		if code := codeOf(err); code != codes.ResourceExhausted && code != codes.InvalidArgument {
			t.Errorf("got %v, expected ResourceExhausted or InvalidArgument", err)
		}
		put(ctx, t, client, prefix+"key", "small")
	})
}

func codeOf(err error) codes.Code {
	var typed rpctypes.EtcdError
	if errors.As(err, &typed) {
		return typed.Code()
	}
	return status.Code(err)
}
