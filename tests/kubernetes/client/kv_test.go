package client

import (
	"context"
	"fmt"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"seawall/tests/kubernetes/harness"
)

func TestTxn(t *testing.T) {
	withPrefix(t, func(ctx context.Context, t *testing.T, env *harness.Env, prefix string) {
		client := env.Client(t)
		key := prefix + "key"
		create := func(value string) *clientv3.TxnResponse {
			t.Helper()
			resp, err := client.Txn(ctx).
				If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).
				Then(clientv3.OpPut(key, value)).
				Else(clientv3.OpGet(key)).
				Commit()
			if err != nil {
				t.Fatal(err)
			}
			return resp
		}
		first := create("first")
		if !first.Succeeded {
			t.Fatal("the key was not created")
		}
		second := create("second")
		if second.Succeeded {
			t.Fatal("the key was created twice")
		}
		if second.Header.Revision != first.Header.Revision {
			t.Errorf("a transaction without a write is at revision %d, expected %d", second.Header.Revision, first.Header.Revision)
		}
		kvs := second.Responses[0].GetResponseRange().Kvs
		if len(kvs) != 1 || string(kvs[0].Value) != "first" || kvs[0].ModRevision != first.Header.Revision {
			t.Errorf("the failed transaction shows %v, expected the first value of revision %d", kvs, first.Header.Revision)
		}
	})
}

// TestTxnOfManyOperations uses every operation and every compare, and a transaction in a transaction.
func TestTxnOfManyOperations(t *testing.T) {
	withPrefix(t, func(ctx context.Context, t *testing.T, env *harness.Env, prefix string) {
		client := env.Client(t)
		a, b := prefix+"a", prefix+"b"
		revision := put(ctx, t, client, a, "1")
		resp, err := client.Txn(ctx).
			If(
				clientv3.Compare(clientv3.Value(a), "=", "1"),
				clientv3.Compare(clientv3.Version(a), "<", 2),
				clientv3.Compare(clientv3.CreateRevision(a), "=", revision),
				clientv3.Compare(clientv3.ModRevision(a), "!=", revision+1),
				clientv3.Compare(clientv3.LeaseValue(a), "=", 0),
				clientv3.Compare(clientv3.CreateRevision(prefix), "<", revision+1).WithPrefix(),
			).
			Then(
				clientv3.OpPut(b, "2", clientv3.WithPrevKV()),
				clientv3.OpGet(prefix, clientv3.WithPrefix()),
				clientv3.OpDelete(a, clientv3.WithPrevKV()),
				clientv3.OpTxn(
					// All compares are made before the first operation, which is why a still exists for this one.
					[]clientv3.Cmp{clientv3.Compare(clientv3.Version(a), "=", 1)},
					[]clientv3.Op{clientv3.OpGet(a), clientv3.OpPut(prefix+"c", "3")},
					nil,
				),
			).
			Commit()
		if err != nil {
			t.Fatal(err)
		}
		if !resp.Succeeded || len(resp.Responses) != 4 {
			t.Fatalf("got %v, expected 4 answers of a success", resp)
		}
		if resp.Header.Revision != revision+1 {
			t.Errorf("the transaction is at revision %d, expected %d", resp.Header.Revision, revision+1)
		}
		if kvs := resp.Responses[1].GetResponseRange().Kvs; len(kvs) != 2 {
			t.Errorf("the range sees %v, expected a and b", kvs)
		}
		deleted := resp.Responses[2].GetResponseDeleteRange()
		if deleted.Deleted != 1 || len(deleted.PrevKvs) != 1 || string(deleted.PrevKvs[0].Value) != "1" {
			t.Errorf("the deletion gave %v, expected the old value of a", deleted)
		}
		if nested := resp.Responses[3].GetResponseTxn(); !nested.Succeeded || len(nested.Responses) != 2 {
			t.Errorf("the inner transaction gave %v, expected 2 answers of a success", nested)
		}
	})
}

// TestTxnOfTwoClusters must not write to one of them.
func TestTxnOfTwoClusters(t *testing.T) {
	harness.Run(t, []harness.Target{harness.Routed}, func(t *testing.T, env *harness.Env) {
		ctx, client := bounded(t), env.Client(t)
		here, there := "/test/a", harness.EventsPrefix+"/a"
		txns := map[string]clientv3.Txn{
			"success":  client.Txn(ctx).Then(clientv3.OpPut(here, ""), clientv3.OpPut(there, "")),
			"branches": client.Txn(ctx).Then(clientv3.OpPut(here, "")).Else(clientv3.OpGet(there)),
			"compare":  client.Txn(ctx).If(clientv3.Compare(clientv3.Version(there), "=", 0)).Then(clientv3.OpPut(here, "")),
			"nested": client.Txn(ctx).Then(clientv3.OpPut(here, ""),
				clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut(there, "")}, nil)),
		}
		for name, txn := range txns {
			_, err := txn.Commit()
			if status.Code(err) != codes.InvalidArgument {
				t.Errorf("%s: got %v, expected InvalidArgument", name, err)
				continue
			}
			if text := err.Error(); !strings.Contains(text, here) || !strings.Contains(text, there) {
				t.Errorf("%s: the error is %q, expected one that names %s and %s", name, text, here, there)
			}
		}
		for _, etcd := range []*harness.Etcd{env.Etcd, env.Events} {
			if resp := get(ctx, t, etcd.Client(t), "", clientv3.WithPrefix()); resp.Count != 0 {
				t.Errorf("a cluster has %v, expected that nothing was written", resp.Kvs)
			}
		}
	})
}

// TestRangeOptions asks in every way a range can be asked, and expects etcd's own answer to the last bit.
func TestRangeOptions(t *testing.T) {
	withPrefix(t, func(ctx context.Context, t *testing.T, env *harness.Env, prefix string) {
		client, owner := env.Client(t), env.Owner(prefix).Client(t)
		putMany(ctx, t, client, prefix, 30)
		middle := put(ctx, t, client, prefix+"0007", "changed")
		if _, err := client.Delete(ctx, prefix+"0011"); err != nil {
			t.Fatal(err)
		}
		put(ctx, t, client, prefix+"9999", strings.Repeat("x", 100_000))
		all := clientv3.WithPrefix()

		for name, opts := range map[string][]clientv3.OpOption{
			"prefix":              {all},
			"serializable":        {all, clientv3.WithSerializable()},
			"limit":               {all, clientv3.WithLimit(7)},
			"limit of all":        {all, clientv3.WithLimit(30)},
			"count only":          {all, clientv3.WithCountOnly()},
			"count with limit":    {all, clientv3.WithCountOnly(), clientv3.WithLimit(3)},
			"keys only":           {all, clientv3.WithKeysOnly()},
			"old revision":        {all, clientv3.WithRev(middle - 5)},
			"old page":            {all, clientv3.WithRev(middle - 5), clientv3.WithLimit(4)},
			"ascending by key":    {all, clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend)},
			"descending by key":   {all, clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend), clientv3.WithLimit(3)},
			"descending by mod":   {all, clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortDescend)},
			"ascending by create": {all, clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend)},
			"by version":          {all, clientv3.WithSort(clientv3.SortByVersion, clientv3.SortDescend), clientv3.WithLimit(1)},
			"by value":            {all, clientv3.WithSort(clientv3.SortByValue, clientv3.SortAscend)},
			"newest":              clientv3.WithLastRev(),
			"first created":       clientv3.WithFirstCreate(),
			"min mod":             {all, clientv3.WithMinModRev(middle)},
			"max mod":             {all, clientv3.WithMaxModRev(middle - 3), clientv3.WithLimit(2)},
			"min create":          {all, clientv3.WithMinCreateRev(middle - 3)},
			"max create":          {all, clientv3.WithMaxCreateRev(middle - 3)},
			"interval":            {clientv3.WithRange(prefix + "0020")},
			"empty interval":      {clientv3.WithRange(prefix)},
			"inverted interval":   {clientv3.WithRange("/a")},
			"single missing key":  nil,
		} {
			check(t, name, get(ctx, t, client, prefix, opts...), get(ctx, t, owner, prefix, opts...))
		}
		check(t, "single key", get(ctx, t, client, prefix+"0003"), get(ctx, t, owner, prefix+"0003"))
		check(t, "last page", get(ctx, t, client, prefix+"0021\x00", clientv3.WithRange(prefix+"\xff"), clientv3.WithLimit(10)),
			get(ctx, t, owner, prefix+"0021\x00", clientv3.WithRange(prefix+"\xff"), clientv3.WithLimit(10)))
	})
}

func check(t *testing.T, name string, got, expected *clientv3.GetResponse) {
	t.Helper()
	if !proto.Equal((*pb.RangeResponse)(got), (*pb.RangeResponse)(expected)) {
		t.Errorf("%s: got %v, expected %v", name, brief(got), brief(expected))
	}
}

// brief shows an answer without its values.
func brief(resp *clientv3.GetResponse) string {
	keys := make([]string, 0, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		keys = append(keys, fmt.Sprintf("%s@%d", kv.Key, kv.ModRevision))
	}
	return fmt.Sprintf("{%v count:%d more:%t keys:%v}", resp.Header, resp.Count, resp.More, keys)
}

// TestRangeStream streams a list, which must be what a range gives.
func TestRangeStream(t *testing.T) {
	if !harness.EtcdAtLeast(t, "3.7.0") {
		t.Skip("this etcd has no RangeStream")
	}
	withPrefix(t, func(ctx context.Context, t *testing.T, env *harness.Env, prefix string) {
		client, owner := env.Client(t), env.Owner(prefix).Client(t)
		putMany(ctx, t, client, prefix, 100)
		revision := put(ctx, t, client, prefix+"0050", "changed")
		for name, opts := range map[string][]clientv3.OpOption{
			"all":          nil,
			"limit":        {clientv3.WithLimit(33)},
			"old revision": {clientv3.WithRev(revision - 40)},
			"keys only":    {clientv3.WithKeysOnly()},
			"count only":   {clientv3.WithCountOnly()},
		} {
			opts = append(opts, clientv3.WithPrefix())
			stream, err := client.GetStream(ctx, prefix, opts...)
			if err != nil {
				t.Fatal(err)
			}
			got, err := clientv3.GetStreamToGetResponse(stream)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			expected := get(ctx, t, owner, prefix, opts...)
			check(t, name, got, expected)
		}
	})
}

// TestRangeOfTwoClusters reads everything, which Seawall merges.
func TestRangeOfTwoClusters(t *testing.T) {
	harness.Run(t, []harness.Target{harness.Routed}, func(t *testing.T, env *harness.Env) {
		ctx, client := bounded(t), env.Client(t)
		keys := []string{"/a", "/registry/configmaps/a", harness.EventsPrefix, harness.EventsPrefix + "/a", "/registry/eventsources/a", "/z"}
		for _, key := range keys {
			put(ctx, t, client, key, key)
		}
		resp := get(ctx, t, client, "/", clientv3.WithPrefix())
		var got []string
		for _, kv := range resp.Kvs {
			got = append(got, string(kv.Key))
		}
		if fmt.Sprint(got) != fmt.Sprint(keys) || resp.Count != int64(len(keys)) || resp.More {
			t.Errorf("got %v count %d more %t, expected %v", got, resp.Count, resp.More, keys)
		}
		expected := get(ctx, t, env.Etcd.Client(t), "/a").Header
		if !proto.Equal(resp.Header, expected) {
			t.Errorf("the header is %v, expected the default cluster's %v", resp.Header, expected)
		}
		// The key beside the prefix belongs to it; a key that only begins alike does not.
		if found := get(ctx, t, env.Events.Client(t), "/", clientv3.WithPrefix()); found.Count != 2 {
			t.Errorf("the second cluster has %s, expected 2 keys", brief(found))
		}
		if _, err := client.Get(ctx, "/", clientv3.WithPrefix(), clientv3.WithRev(resp.Header.Revision)); status.Code(err) != codes.InvalidArgument {
			t.Errorf("reading two clusters at one revision gave %v, expected InvalidArgument", err)
		}
	})
}

// TestReadsSeeWritesOnOtherPaths writes to etcd directly and reads through the target right after, in several ways.
func TestReadsSeeWritesOnOtherPaths(t *testing.T) {
	withPrefix(t, func(ctx context.Context, t *testing.T, env *harness.Env, prefix string) {
		client, owner := env.Client(t), env.Owner(prefix).Client(t)
		for i := range 100 {
			key, value := fmt.Sprintf("%s%04d", prefix, i%20), fmt.Sprint(i)
			revision := put(ctx, t, owner, key, value)
			point := get(ctx, t, client, key)
			list := get(ctx, t, client, prefix, clientv3.WithPrefix())
			count := get(ctx, t, client, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
			for _, resp := range []*clientv3.GetResponse{point, list, count} {
				if resp.Header.Revision != revision {
					t.Fatalf("read at revision %d, expected %d", resp.Header.Revision, revision)
				}
			}
			if string(point.Kvs[0].Value) != value || string(list.Kvs[i%20].Value) != value {
				t.Fatalf("read %s and %s, expected %s", point.Kvs[0].Value, list.Kvs[i%20].Value, value)
			}
			if keys := int64(min(i+1, 20)); count.Count != keys {
				t.Fatalf("counted %d keys, expected %d", count.Count, keys)
			}
		}
	})
}

// TestDelete deletes one key and then the rest.
func TestDelete(t *testing.T) {
	withPrefix(t, func(ctx context.Context, t *testing.T, env *harness.Env, prefix string) {
		client := env.Client(t)
		putMany(ctx, t, client, prefix, 10)
		one, err := client.Delete(ctx, prefix+"0003", clientv3.WithPrevKV())
		if err != nil {
			t.Fatal(err)
		}
		if one.Deleted != 1 || len(one.PrevKvs) != 1 || string(one.PrevKvs[0].Value) != "3" {
			t.Errorf("got %v, expected the deleted value 3", one)
		}
		rest, err := client.Delete(ctx, prefix, clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		if rest.Deleted != 9 || rest.Header.Revision != one.Header.Revision+1 {
			t.Errorf("deleted %d keys at revision %d, expected 9 at %d", rest.Deleted, rest.Header.Revision, one.Header.Revision+1)
		}
	})
}
