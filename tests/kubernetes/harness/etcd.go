package harness

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apimachinery/pkg/util/wait"
)

// Patience bounds every wait for something that must happen.
const Patience = 30 * time.Second

// Etcd is an etcd server with one member, alone in a directory of its own.
type Etcd struct {
	*process
	// URL is its client URL.
	URL  string
	peer string
	args []string
}

// startEtcd starts an etcd server that ends with the test.
func startEtcd(t testing.TB, extra ...string) *Etcd {
	t.Helper()
	dir, err := os.MkdirTemp(scratch(), "seawall-test-etcd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})

	var lastErr error
	// A port found free may be taken before etcd binds it, so try a few.
	for range 5 {
		e := newEtcd(t, dir, extra)
		if lastErr = e.start(); lastErr == nil {
			t.Cleanup(func() { e.kill() })
			return e
		}
	}
	t.Fatal(lastErr)
	return nil
}

func newEtcd(t testing.TB, dir string, extra []string) *Etcd {
	client, peer := "http://"+freeAddress(t), "http://"+freeAddress(t)
	return &Etcd{URL: client, peer: peer, args: append([]string{
		"--name", "member",
		"--data-dir", dir,
		"--listen-client-urls", client,
		"--advertise-client-urls", client,
		"--listen-peer-urls", peer,
		"--initial-advertise-peer-urls", peer,
		"--initial-cluster", "member=" + peer,
		"--unsafe-no-fsync",
		"--log-level", "warn",
		// A short election makes a member ready in 0.1 s and allows leases of 1 s.
		"--heartbeat-interval", "20",
		"--election-timeout", "200",
	}, extra...)}
}

func (e *Etcd) start() error {
	etcd, err := etcdBinary()
	if err != nil {
		return err
	}
	if e.process, err = startProcess("etcd", etcd.path, e.args, func(string) {}); err != nil {
		return err
	}
	err = wait.PollUntilContextTimeout(context.Background(), 5*time.Millisecond, Patience, true,
		func(context.Context) (bool, error) {
			if e.hasEnded() {
				return false, fmt.Errorf("etcd ended:\n%s", e.tail())
			}
			resp, err := http.Get(e.URL + "/health")
			if err != nil {
				return false, nil
			}
			return resp.StatusCode == http.StatusOK, resp.Body.Close()
		})
	if err == nil {
		err = e.isItself()
	}
	if err != nil {
		e.kill()
		return fmt.Errorf("etcd did not become healthy: %w", err)
	}
	return nil
}

// isItself reports an error if another server took the port first and answers in its place.
func (e *Etcd) isItself() error {
	resp, err := http.Post(e.URL+"/v3/cluster/member/list", "application/json", strings.NewReader("{}"))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	members, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if !strings.Contains(string(members), e.peer) {
		return fmt.Errorf("another etcd answers at %s: %s", e.URL, members)
	}
	return nil
}

// Stop ends the server and keeps its data for Start.
func (e *Etcd) Stop() { e.kill() }

// Start starts a stopped server again at the same URL.
func (e *Etcd) Start(t testing.TB) {
	t.Helper()
	if err := e.start(); err != nil {
		t.Fatal(err)
	}
}

// Client returns a client of this server, whatever the target of the test is.
func (e *Etcd) Client(t testing.TB) *clientv3.Client {
	t.Helper()
	return newClient(t, clientv3.Config{Endpoints: []string{e.URL}})
}

// newClient returns a client that ends with the test.
func newClient(t testing.TB, config clientv3.Config) *clientv3.Client {
	t.Helper()
	config.Logger = zap.NewNop()
	client, err := clientv3.New(config)
	if err != nil {
		t.Fatal(err)
	}
	// A client that was already closed by its test reports its cancelled context.
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// etcdMinimum is the oldest etcd whose progress notifications Kubernetes trusts.
const etcdMinimum = "3.5.13"

// An etcdProgram is an installed etcd.
type etcdProgram struct {
	path    string
	version *version.Version
}

var etcdBinary = sync.OnceValues(func() (etcdProgram, error) {
	etcd, err := findEtcd()
	if err == nil && !etcd.version.AtLeast(version.MustParseSemantic(etcdMinimum)) {
		err = fmt.Errorf("%s is etcd %s, and these tests need %s or newer: name another one in SEAWALL_ETCD_BIN",
			etcd.path, etcd.version, etcdMinimum)
	}
	return etcd, err
})

func findEtcd() (etcdProgram, error) {
	if bin := os.Getenv("SEAWALL_ETCD_BIN"); bin != "" {
		return newEtcdProgram(bin)
	}
	if bin, err := exec.LookPath("etcd"); err == nil {
		return newEtcdProgram(bin)
	}
	installed, err := filepath.Glob(filepath.Join(repository(), "target/tools/etcd/*/bin/etcd"))
	if err != nil {
		return etcdProgram{}, err
	}
	var newest etcdProgram
	for _, bin := range installed {
		etcd, err := newEtcdProgram(bin)
		if err != nil {
			return etcdProgram{}, err
		}
		if newest.version == nil || newest.version.LessThan(etcd.version) {
			newest = etcd
		}
	}
	if newest.version == nil {
		return etcdProgram{}, fmt.Errorf("no etcd: name one in SEAWALL_ETCD_BIN, put it on the PATH, " +
			"or install it with `scripts/etcd install newest`")
	}
	return newest, nil
}

var versionLine = regexp.MustCompile(`etcd Version: (\S+)`)

func newEtcdProgram(path string) (etcdProgram, error) {
	out, err := exec.Command(path, "--version").Output()
	if err != nil {
		return etcdProgram{}, fmt.Errorf("%s --version: %w", path, err)
	}
	match := versionLine.FindStringSubmatch(string(out))
	if match == nil {
		return etcdProgram{}, fmt.Errorf("%s --version told no version: %q", path, out)
	}
	v, err := version.ParseSemantic(match[1])
	return etcdProgram{path, v}, err
}

// EtcdAtLeast tells whether the etcd servers of these tests are of this version or newer.
func EtcdAtLeast(t testing.TB, minimum string) bool {
	t.Helper()
	etcd, err := etcdBinary()
	if err != nil {
		t.Fatal(err)
	}
	return etcd.version.AtLeast(version.MustParseSemantic(minimum))
}

// ProgressInterval is the flag that sets the interval of etcd's progress notifications.
func ProgressInterval(t testing.TB, interval time.Duration) string {
	t.Helper()
	flag := "--experimental-watch-progress-notify-interval"
	if EtcdAtLeast(t, "3.6.0") {
		flag = "--watch-progress-notify-interval"
	}
	return fmt.Sprintf("%s=%s", flag, interval)
}

// scratch is where data directories go: memory where there is some.
func scratch() string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return os.TempDir()
}

func freeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	address := listener.Addr().String()
	// The system may give out again what no server listens at yet.
	if _, given := givenAddresses.LoadOrStore(address, true); given {
		return freeAddress(t)
	}
	return address
}

// givenAddresses are those that this process has given to servers.
var givenAddresses sync.Map

// repository is the root of Seawall's repository, two levels above this module.
func repository() string {
	dir, err := os.Getwd()
	for err == nil && dir != "/" {
		if _, statErr := os.Stat(filepath.Join(dir, "go.mod")); statErr == nil {
			return filepath.Join(dir, "../..")
		}
		dir = filepath.Dir(dir)
	}
	return "."
}

// Address strips the scheme of an endpoint.
func Address(endpoint string) string {
	return strings.TrimPrefix(endpoint, "http://")
}
