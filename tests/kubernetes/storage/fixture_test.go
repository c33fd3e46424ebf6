package storage

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/utils/clock"

	"seawall/tests/kubernetes/harness"
)

// codec encodes objects of the example API as kube-apiserver stores most objects, jsonCodec as it stores custom ones.
var codec, jsonCodec = newCodecs()

func newCodecs() (runtime.Codec, runtime.Codec) {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, metav1.SchemeGroupVersion)
	utilruntime.Must(example.AddToScheme(scheme))
	utilruntime.Must(examplev1.AddToScheme(scheme))
	codecs := serializer.NewCodecFactory(scheme)
	proto := protobuf.NewSerializer(scheme, scheme)
	versions := schema.GroupVersions{examplev1.SchemeGroupVersion}
	return codecs.CodecForVersions(proto, proto, versions, nil), codecs.LegacyCodec(versions...)
}

func newPod() runtime.Object     { return &example.Pod{} }
func newPodList() runtime.Object { return &example.PodList{} }

// valuePrefix stands before every value in etcd, as encryption at rest would change it.
const valuePrefix = "test!"

// A fixture is Kubernetes' storage of pods on one target.
type fixture struct {
	storage.Interface
	env *harness.Env
	// client is the client of the store, with recorders in it.
	client *kubernetes.Client
	// prefix stands before the keys of the store. On the routed target it is the routed one, so that a whole suite
	// meets the second cluster.
	prefix      string
	transformer *swappable
	// compactions is the client that compacts the cluster of the pods.
	compactions *clientv3.Client
}

// newFixture returns a store with a prefix and a codec as kube-apiserver has them.
func newFixture(t testing.TB, env *harness.Env) *fixture {
	t.Helper()
	return newFixtureWith(t, env, prefixOn(env.Target), codec)
}

func prefixOn(target harness.Target) string {
	if target == harness.Routed {
		return harness.EventsPrefix
	}
	return "/registry"
}

func newFixtureWith(t testing.TB, env *harness.Env, prefix string, codec runtime.Codec) *fixture {
	t.Helper()
	f := &fixture{
		env:         env,
		client:      recordedClient(t, env),
		prefix:      prefix,
		transformer: newSwappable(),
	}
	f.compactions = f.client.Client
	if env.Owner(prefix) != env.Etcd {
		// A compaction through Seawall names a revision of the default cluster. These suites compact at
		// revisions of the pods' own cluster.
		f.compactions = env.Owner(prefix).Client(t)
	}
	compactor := etcd3.NewCompactor(f.compactions, 0, clock.RealClock{}, nil)
	t.Cleanup(compactor.Stop)

	leases := etcd3.NewDefaultLeaseManagerConfig()
	leases.ReuseDurationSeconds = 1
	versioner := storage.APIObjectVersioner{}
	store, err := etcd3.New(f.client, compactor, codec, newPod, newPodList, prefix, "/pods/",
		schema.GroupResource{Resource: "pods"}, f.transformer, leases,
		etcd3.NewDefaultDecoder(codec, versioner), versioner)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	f.Interface = store
	return f
}

// recordedClient returns a client of the target that counts reads and remembers lists.
func recordedClient(t testing.TB, env *harness.Env) *kubernetes.Client {
	t.Helper()
	client := &kubernetes.Client{Client: env.Client(t)}
	lists := storagetesting.NewKubernetesRecorder(client)
	client.KV = storagetesting.NewKVRecorder(client.KV, lists)
	client.Kubernetes = lists
	return client
}

// reads is the recorder of the store's reads.
func (f *fixture) reads() *storagetesting.KVRecorder {
	return f.client.KV.(*storagetesting.KVRecorder)
}

// key is what the storage key of a pod is in etcd.
func (f *fixture) key(key string) string { return path.Join(f.prefix, key) }

// increaseRV raises the revision of the pods' cluster without touching a pod.
func (f *fixture) increaseRV(ctx context.Context, t *testing.T) int64 {
	t.Helper()
	resp, err := f.client.Put(ctx, f.key("unrelated"), "")
	if err != nil {
		t.Fatal(err)
	}
	return resp.Header.Revision
}

// compact compacts as kube-apiserver does, and waits until the store knows.
func (f *fixture) compact(ctx context.Context, t *testing.T, resourceVersion string) {
	t.Helper()
	f.compactUnwatched(ctx, t, resourceVersion)
	eventually(t, "the store learns the compaction", func() bool {
		return strconv.FormatInt(f.CompactRevision(), 10) == resourceVersion
	})
}

// compactUnwatched is compact for a store that does not watch compactions.
func (f *fixture) compactUnwatched(ctx context.Context, t *testing.T, resourceVersion string) {
	t.Helper()
	revision, err := strconv.ParseInt(resourceVersion, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	var version, compacted int64
	for compacted != revision {
		// Where the counter was behind, nothing is compacted, and the right counter is learnt.
		if version, _, compacted, err = etcd3.Compact(ctx, f.compactions, version, revision); err != nil {
			t.Fatal(err)
		}
	}
}

// checkStored checks what the storage layer promises of a stored pod.
func (f *fixture) checkStored(ctx context.Context, t *testing.T, key string) {
	t.Helper()
	resp, err := f.env.Owner(f.key(key)).Client(t).Get(ctx, f.key(key))
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.Kvs) != 1 {
		t.Fatalf("etcd has %d keys %s, expected 1", len(resp.Kvs), f.key(key))
	}
	object, err := runtime.Decode(codec, resp.Kvs[0].Value[len(valuePrefix):])
	if err != nil {
		t.Fatal(err)
	}
	if rv := object.(*example.Pod).ResourceVersion; rv != "" {
		t.Errorf("the stored pod has resource version %s, expected none", rv)
	}
}

// UpdatePrefixTransformer is how the suites of Kubernetes change values on their way.
func (f *fixture) UpdatePrefixTransformer(modify storagetesting.PrefixTransformerModifier) func() {
	changed := *f.transformer.prefix
	return f.transformer.swap(modify(&changed))
}

// UpdateTransformer is how the suites of Kubernetes corrupt values.
func (f *fixture) UpdateTransformer(modify storagetesting.TransformerModifier) func() {
	return f.transformer.swap(modify(f.transformer.prefix))
}

// A swappable transformer can be changed while a store uses it.
type swappable struct {
	prefix  *storagetesting.PrefixTransformer
	current atomic.Pointer[value.Transformer]
}

func newSwappable() *swappable {
	s := &swappable{prefix: storagetesting.NewPrefixTransformer([]byte(valuePrefix), false)}
	s.swap(s.prefix)
	return s
}

// swap uses another transformer until the returned function is called.
func (s *swappable) swap(next value.Transformer) func() {
	previous := s.current.Swap(&next)
	return func() { s.current.Store(previous) }
}

func (s *swappable) TransformFromStorage(ctx context.Context, data []byte, at value.Context) ([]byte, bool, error) {
	return (*s.current.Load()).TransformFromStorage(ctx, data, at)
}

func (s *swappable) TransformToStorage(ctx context.Context, data []byte, at value.Context) ([]byte, error) {
	return (*s.current.Load()).TransformToStorage(ctx, data, at)
}

// breakable fails on reads while it is told to.
type breakable struct {
	value.Transformer
	broken atomic.Bool
}

var errBroken = errors.New("broken on purpose")

func (b *breakable) TransformFromStorage(ctx context.Context, data []byte, at value.Context) ([]byte, bool, error) {
	if b.broken.Load() {
		return nil, false, errBroken
	}
	return b.Transformer.TransformFromStorage(ctx, data, at)
}

// corruptObject is the error by which the store knows an object it cannot read. Its type is not public, so it is
// taken from the decorator that makes it.
func corruptObject(t *testing.T) error {
	t.Helper()
	broken := &breakable{Transformer: storagetesting.NewPrefixTransformer(nil, false)}
	broken.broken.Store(true)
	_, _, err := etcd3.WithCorruptObjErrorHandlingTransformer(broken).
		TransformFromStorage(t.Context(), nil, value.DefaultContext{})
	return err
}

// eventually waits for a condition that nothing announces.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(context.Background(), 10*time.Millisecond, harness.Patience, true,
		func(context.Context) (bool, error) { return condition(), nil })
	if err != nil {
		t.Fatalf("waited for: %s: %v", what, err)
	}
}

func pod(name string) *example.Pod {
	return &example.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
}

func podKey(name string) string { return fmt.Sprintf("/pods/default/%s", name) }

// create creates a pod and returns it as stored.
func create(t testing.TB, s storage.Interface, name string) *example.Pod {
	t.Helper()
	out := &example.Pod{}
	if err := s.Create(context.Background(), podKey(name), pod(name), out, 0); err != nil {
		t.Fatal(err)
	}
	return out
}

// revisionOf is the resource version as a number.
func revisionOf(t testing.TB, object runtime.Object) int64 {
	t.Helper()
	rv, err := storage.APIObjectVersioner{}.ObjectResourceVersion(object)
	if err != nil {
		t.Fatal(err)
	}
	return int64(rv)
}
