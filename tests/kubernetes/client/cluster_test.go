package client

import (
	"bytes"
	"crypto/sha256"
	"io"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"seawall/tests/kubernetes/harness"
)

// TestSync lets the client take its endpoints from the member list: it must stay where it is.
func TestSync(t *testing.T) {
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		ctx, client := bounded(t), env.Client(t)
		members, err := client.MemberList(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if len(members.Members) == 0 {
			t.Fatal("there are no members")
		}
		for _, member := range members.Members {
			for _, url := range member.ClientURLs {
				if harness.Address(url) != harness.Address(env.Endpoint()) {
					t.Errorf("a member has client URL %s, expected %s", url, env.Endpoint())
				}
			}
		}
		if err := client.Sync(ctx); err != nil {
			t.Fatal(err)
		}
		for _, endpoint := range client.Endpoints() {
			if harness.Address(endpoint) != harness.Address(env.Endpoint()) {
				t.Errorf("the client now uses %s, expected %s", endpoint, env.Endpoint())
			}
		}
		put(ctx, t, client, prefixes["default"]+"a", "")
		put(ctx, t, client, prefixes["events"]+"a", "")
	})
}

// TestStatus expects a status like that of a member of the default cluster.
func TestStatus(t *testing.T) {
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		ctx, client := bounded(t), env.Client(t)
		revision := put(ctx, t, client, prefixes["default"]+"a", "")
		got, err := client.Status(ctx, env.Endpoint())
		if err != nil {
			t.Fatal(err)
		}
		expected, err := env.Etcd.Client(t).Status(ctx, env.Etcd.URL)
		if err != nil {
			t.Fatal(err)
		}
		if got.Version != expected.Version || got.Leader != expected.Leader || got.RaftTerm != expected.RaftTerm {
			t.Errorf("got version %s leader %x term %d, expected %s, %x and %d",
				got.Version, got.Leader, got.RaftTerm, expected.Version, expected.Leader, expected.RaftTerm)
		}
		if got.Header.ClusterId != expected.Header.ClusterId || got.Header.MemberId != expected.Header.MemberId {
			t.Errorf("got header %v, expected %v", got.Header, expected.Header)
		}
		if got.Header.Revision < revision {
			t.Errorf("got revision %d, expected at least %d", got.Header.Revision, revision)
		}
		if got.DbSize <= 0 || got.IsLearner || len(got.Errors) != 0 {
			t.Errorf("got size %d, learner %t, errors %v, expected a healthy member", got.DbSize, got.IsLearner, got.Errors)
		}
	})
}

// TestAlarms raises an alarm, sees it, and takes it back.
func TestAlarms(t *testing.T) {
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		ctx, client := bounded(t), env.Client(t)
		status, err := client.Status(ctx, env.Endpoint())
		if err != nil {
			t.Fatal(err)
		}
		alarm := &pb.AlarmRequest{MemberID: status.Header.MemberId, Alarm: pb.AlarmType_NOSPACE}
		for _, step := range []struct {
			action   pb.AlarmRequest_AlarmAction
			expected int
		}{{pb.AlarmRequest_ACTIVATE, 1}, {pb.AlarmRequest_DEACTIVATE, 0}} {
			alarm.Action = step.action
			if _, err := clientv3.RetryMaintenanceClient(client, client.ActiveConnection()).Alarm(ctx, alarm); err != nil {
				t.Fatal(err)
			}
			list, err := client.AlarmList(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if len(list.Alarms) != step.expected {
				t.Errorf("after %s the alarms are %v, expected %d", step.action, list.Alarms, step.expected)
			}
		}
	})
}

// TestSnapshot saves the default cluster: a whole database with the digest etcd puts behind it.
func TestSnapshot(t *testing.T) {
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		ctx, client := bounded(t), env.Client(t)
		marker := strings.Repeat("marker", 20_000)
		put(ctx, t, client, prefixes["default"]+"a", marker)
		snapshot, err := client.SnapshotWithVersion(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer snapshot.Snapshot.Close()
		data, err := io.ReadAll(snapshot.Snapshot)
		if err != nil {
			t.Fatal(err)
		}
		if len(data) <= sha256.Size {
			t.Fatalf("the snapshot has %d bytes", len(data))
		}
		database, digest := data[:len(data)-sha256.Size], data[len(data)-sha256.Size:]
		if sum := sha256.Sum256(database); !bytes.Equal(sum[:], digest) {
			t.Errorf("the digest of the snapshot is %x, expected %x", sum, digest)
		}
		if !bytes.Contains(database, []byte(marker)) {
			t.Error("the snapshot does not hold the value just written")
		}
	})
}

// TestHashKV compares the digest of all keys with etcd's own.
func TestHashKV(t *testing.T) {
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		ctx, client := bounded(t), env.Client(t)
		revision := put(ctx, t, client, prefixes["default"]+"a", "")
		got, err := client.HashKV(ctx, env.Endpoint(), revision)
		if err != nil {
			t.Fatal(err)
		}
		expected, err := env.Etcd.Client(t).HashKV(ctx, env.Etcd.URL, revision)
		if err != nil {
			t.Fatal(err)
		}
		if got.Hash != expected.Hash {
			t.Errorf("the hash is %x, expected %x", got.Hash, expected.Hash)
		}
	})
}

func TestDefragment(t *testing.T) {
	harness.Run(t, harness.All, func(t *testing.T, env *harness.Env) {
		ctx, client := bounded(t), env.Client(t)
		put(ctx, t, client, prefixes["default"]+"a", "1")
		if _, err := client.Defragment(ctx, env.Endpoint()); err != nil {
			t.Fatal(err)
		}
		if resp := get(ctx, t, client, prefixes["default"]+"a"); resp.Count != 1 {
			t.Errorf("got %s after defragmentation, expected the key", brief(resp))
		}
	})
}
