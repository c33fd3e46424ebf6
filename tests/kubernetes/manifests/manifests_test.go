// Package manifests reads what deploy/ has for Kubernetes as strictly as an apiserver does: a field that
// there is not, or one that is given twice, is an error. And it holds the objects against each other.
package manifests

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
)

const root = "../../.."

// objects decodes each document.
func objects(t *testing.T, text []byte) []runtime.Object {
	t.Helper()
	return decode(t, scheme.Scheme, text)
}

func decode(t *testing.T, known *runtime.Scheme, text []byte) []runtime.Object {
	t.Helper()
	strict := serializer.NewCodecFactory(known, serializer.EnableStrict).UniversalDeserializer()
	reader := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	var found []runtime.Object
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		object, _, err := strict.Decode(document, nil, nil)
		if err != nil {
			t.Fatalf("%v:\n%s", err, document)
		}
		found = append(found, object)
	}
}

// skip says what was not checked, now and at the end of `make test`.
func skip(t *testing.T, what string) {
	t.Helper()
	if path := os.Getenv("SEAWALL_SKIPPED"); path != "" {
		told, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		defer told.Close()
		if _, err := fmt.Fprintln(told, what); err != nil {
			t.Fatal(err)
		}
	}
	t.Skip(what)
}

func file(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func of[T runtime.Object](t *testing.T, all []runtime.Object) []T {
	t.Helper()
	var found []T
	for _, object := range all {
		if match, ok := object.(T); ok {
			found = append(found, match)
		}
	}
	if len(found) == 0 {
		t.Fatalf("no %T", *new(T))
	}
	return found
}

func TestStaticPod(t *testing.T) {
	pod := of[*corev1.Pod](t, objects(t, file(t, "deploy/static-pod/seawall.yaml")))[0]
	checkPod(t, pod.Labels, &pod.Spec)
	if !pod.Spec.HostNetwork || pod.Spec.PriorityClassName != "system-node-critical" {
		t.Error("a static pod of the control plane is on the host's network and critical to its node")
	}
	for _, port := range pod.Spec.Containers[0].Ports {
		if port.HostPort != port.ContainerPort {
			t.Errorf("port %s differs on the host's network", port.Name)
		}
	}
}

func TestManifests(t *testing.T) {
	all := objects(t, file(t, "deploy/manifests/seawall.yaml"))
	workload := of[*appsv1.Deployment](t, all)[0]
	checkSet(t, all, workload.Spec.Selector, &workload.Spec.Template)
	budget := of[*policyv1.PodDisruptionBudget](t, all)[0]
	checkSelector(t, "PodDisruptionBudget", budget.Spec.Selector, workload.Spec.Template.Labels)
}

// The chart's other shape, where there is a helm to render it.
func TestDaemonSet(t *testing.T) {
	tools := os.Getenv("SEAWALL_TOOLS_DIR")
	if tools == "" {
		tools = filepath.Join(root, "target/tools")
	}
	helm := filepath.Join(tools, "helm/bin/helm")
	if _, err := os.Stat(helm); err != nil {
		skip(t, "the chart's DaemonSet was NOT read: there is no helm, which `scripts/deploy-tools helm` obtains")
	}
	render := exec.Command(helm, "template", "seawall", filepath.Join(root, "deploy/helm/seawall"),
		"--set", "kind=DaemonSet,networkPolicy.egress[0].ipBlock.cidr=10.0.0.0/8")
	text, err := render.Output()
	if err != nil {
		t.Fatal(err)
	}
	all := objects(t, text)
	workload := of[*appsv1.DaemonSet](t, all)[0]
	checkSet(t, all, workload.Spec.Selector, &workload.Spec.Template)
}

func TestServiceMonitor(t *testing.T) {
	monitor := operatorObject[*monitoringv1.ServiceMonitor](t, "deploy/manifests/servicemonitor.yaml")
	if len(monitor.Spec.Endpoints) != 1 || monitor.Spec.Endpoints[0].Path != "/metrics" {
		t.Fatalf("%v", monitor.Spec.Endpoints)
	}
	port := monitor.Spec.Endpoints[0].Port
	var selected []string
	for _, service := range of[*corev1.Service](t, objects(t, file(t, "deploy/manifests/seawall.yaml"))) {
		if !labels.SelectorFromSet(monitor.Spec.Selector.MatchLabels).Matches(labels.Set(service.Labels)) {
			continue
		}
		selected = append(selected, service.Name)
		if !slices.ContainsFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == port }) {
			t.Errorf("Service %s has no port %v", service.Name, port)
		}
	}
	if len(selected) != 1 {
		t.Errorf("each pod must be read once, but it selects %v", selected)
	}
}

func TestPrometheusRule(t *testing.T) {
	rule := operatorObject[*monitoringv1.PrometheusRule](t, "deploy/manifests/prometheusrule.yaml")
	var plain monitoringv1.PrometheusRuleSpec
	strictly(t, file(t, "deploy/prometheus/alerts.yaml"), &plain)
	if len(plain.Groups) == 0 || len(plain.Groups[0].Rules) == 0 {
		t.Fatal("no rules")
	}
	if !reflect.DeepEqual(rule.Spec, plain) {
		t.Errorf("the operator is given other rules than Prometheus: %v", rule.Spec)
	}
}

// What kubeadm takes of it; the names are those of its API v1beta4.
func TestKubeadmConfig(t *testing.T) {
	var config struct {
		metav1.TypeMeta `json:",inline"`
		APIServer       struct {
			ExtraArgs []struct {
				Name  string `json:"name"`
				Value string `json:"value"`
			} `json:"extraArgs"`
		} `json:"apiServer"`
	}
	strictly(t, file(t, "deploy/static-pod/kubeadm-config.yaml"), &config)
	if kind := config.GroupVersionKind().String(); kind != "kubeadm.k8s.io/v1beta4, Kind=ClusterConfiguration" {
		t.Errorf("kubeadm does not know %s", kind)
	}
	pod := of[*corev1.Pod](t, objects(t, file(t, "deploy/static-pod/seawall.yaml")))[0]
	ports := pod.Spec.Containers[0].Ports
	client := slices.IndexFunc(ports, func(port corev1.ContainerPort) bool { return port.Name == "client" })
	address := fmt.Sprintf("https://127.0.0.1:%d", ports[client].HostPort)
	args := config.APIServer.ExtraArgs
	if len(args) != 1 || args[0].Name != "etcd-servers" || args[0].Value != address {
		t.Errorf("kube-apiserver is to look for etcd at %s, and not by %v", address, args)
	}
}

// operatorObject is the only object of a file, of the Prometheus operator's kinds.
func operatorObject[T runtime.Object](t *testing.T, path string) T {
	t.Helper()
	known := runtime.NewScheme()
	if err := monitoringv1.AddToScheme(known); err != nil {
		t.Fatal(err)
	}
	all := decode(t, known, file(t, path))
	if len(all) != 1 {
		t.Fatalf("%d objects in %s", len(all), path)
	}
	return of[T](t, all)[0]
}

// strictly reads what is no object of an apiserver's.
func strictly(t *testing.T, text []byte, into any) {
	t.Helper()
	asJSON, err := yaml.ToJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(asJSON))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		t.Fatal(err)
	}
}

// checkSet holds a workload against the objects that refer to its pods.
func checkSet(t *testing.T, all []runtime.Object, selector *metav1.LabelSelector, pod *corev1.PodTemplateSpec) {
	t.Helper()
	checkPod(t, pod.Labels, &pod.Spec)
	checkSelector(t, "workload", selector, pod.Labels)
	ports := portNames(&pod.Spec)
	for _, service := range of[*corev1.Service](t, all) {
		checkSelector(t, service.Name, &metav1.LabelSelector{MatchLabels: service.Spec.Selector}, pod.Labels)
		for _, port := range service.Spec.Ports {
			if !slices.Contains(ports, port.TargetPort.StrVal) {
				t.Errorf("Service %s leads to port %q of %v", service.Name, port.TargetPort.StrVal, ports)
			}
		}
	}
	policy := of[*networkingv1.NetworkPolicy](t, all)[0]
	checkSelector(t, "NetworkPolicy", &policy.Spec.PodSelector, pod.Labels)
	for _, rule := range policy.Spec.Ingress {
		for _, port := range rule.Ports {
			if !slices.Contains(ports, port.Port.StrVal) {
				t.Errorf("NetworkPolicy speaks of port %q of %v", port.Port.StrVal, ports)
			}
		}
	}
	if spec := pod.Spec.SecurityContext; spec.RunAsNonRoot == nil || !*spec.RunAsNonRoot || spec.FSGroup == nil {
		t.Error("it runs as nobody, whose group reads the certificates")
	}
}

func checkSelector(t *testing.T, of string, selector *metav1.LabelSelector, pod map[string]string) {
	t.Helper()
	parsed, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		t.Fatal(err)
	}
	if parsed.Empty() || !parsed.Matches(labels.Set(pod)) {
		t.Errorf("%s selects %s, and pods are %v", of, parsed, pod)
	}
}

func portNames(pod *corev1.PodSpec) []string {
	var names []string
	for _, port := range pod.Containers[0].Ports {
		names = append(names, port.Name)
	}
	return names
}

// checkPod holds for each pod, wherever it runs.
func checkPod(t *testing.T, set map[string]string, pod *corev1.PodSpec) {
	t.Helper()
	if len(set) == 0 || len(pod.Containers) != 1 {
		t.Fatal("one container, with labels")
	}
	container := &pod.Containers[0]
	for kind, probe := range map[string]*corev1.Probe{
		"startup": container.StartupProbe, "liveness": container.LivenessProbe, "readiness": container.ReadinessProbe,
	} {
		if probe == nil || probe.HTTPGet == nil {
			t.Errorf("no %s probe", kind)
			continue
		}
		known := slices.ContainsFunc(container.Ports, func(port corev1.ContainerPort) bool {
			wanted := probe.HTTPGet.Port
			return port.Name == "admin" && (wanted.StrVal == port.Name || wanted.IntVal == port.ContainerPort)
		})
		if !known {
			t.Errorf("the %s probe asks port %v", kind, probe.HTTPGet.Port)
		}
	}
	checkMounts(t, pod)
	checkUnprivileged(t, container.SecurityContext)
	if pod.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Error("all system calls are allowed")
	}
	if container.Resources.Requests.Cpu().IsZero() || container.Resources.Limits.Memory().IsZero() {
		t.Error("no request for CPU, or no limit on memory")
	}
	if !container.Resources.Limits.Cpu().IsZero() {
		t.Error("while it is throttled, so are all clients of etcd")
	}
}

func checkMounts(t *testing.T, pod *corev1.PodSpec) {
	t.Helper()
	var volumes, mounts []string
	for _, volume := range pod.Volumes {
		volumes = append(volumes, volume.Name)
	}
	for _, mount := range pod.Containers[0].VolumeMounts {
		mounts = append(mounts, mount.Name)
		if !mount.ReadOnly {
			t.Errorf("%s may be written to", mount.MountPath)
		}
	}
	slices.Sort(volumes)
	slices.Sort(mounts)
	if !slices.Equal(volumes, mounts) {
		t.Errorf("volumes %v are mounted as %v", volumes, mounts)
	}
}

func checkUnprivileged(t *testing.T, context *corev1.SecurityContext) {
	t.Helper()
	switch {
	case context == nil, context.AllowPrivilegeEscalation == nil, context.ReadOnlyRootFilesystem == nil:
		t.Error("the container's rights are not said")
	case *context.AllowPrivilegeEscalation, !*context.ReadOnlyRootFilesystem:
		t.Error("the container may more than it needs")
	case context.Capabilities == nil, !slices.Equal(context.Capabilities.Drop, []corev1.Capability{"ALL"}):
		t.Error("the container keeps capabilities")
	}
}
