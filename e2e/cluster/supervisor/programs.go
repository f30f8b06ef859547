package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// program is one program of the control plane.
type program struct {
	name string
	args []string
	// wanted says that it should run: it was not stopped on demand.
	wanted bool
	// client says that it does nothing without the API server: it ends when it finds none at its start.
	client  bool
	command *exec.Cmd
	// ended is closed when the process is gone.
	ended chan struct{}
}

// kubeBinary is the program that lies beside this one.
func kubeBinary() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	kube := filepath.Join(filepath.Dir(self), "kube")
	if _, err := os.Stat(kube); err != nil {
		return "", errors.New("the program `kube` is not beside this one: run e2e/setup")
	}
	return kube, nil
}

// controlPlane says which programs there are, in the order of their start, and how each is called.
func controlPlane(place folder, n network, wanted options) []*program {
	pki := func(name string) string { return place.path("pki/" + name) }
	etcd := fmt.Sprintf("http://127.0.0.1:%d", n.EtcdPort)
	peer := fmt.Sprintf("http://127.0.0.1:%d", n.PeerPort)
	apiserver := []string{
		"--etcd-servers=" + etcd,
		"--bind-address=" + n.API,
		fmt.Sprintf("--secure-port=%d", n.APIPort),
		"--tls-cert-file=" + pki("apiserver.crt"),
		"--tls-private-key-file=" + pki("apiserver.key"),
		"--client-ca-file=" + pki("ca.crt"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + pki("sa.pub"),
		"--service-account-signing-key-file=" + pki("sa.key"),
		"--service-cluster-ip-range=" + n.Services,
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
		"--kubelet-client-certificate=" + pki("apiserver-client.crt"),
		"--kubelet-client-key=" + pki("apiserver-client.key"),
		"--kubelet-certificate-authority=" + pki("ca.crt"),
		"--kubelet-preferred-address-types=InternalIP",
		"--profiling=false",
	}
	if wanted.APIOnly {
		// Nothing reaches the API server through the service `kubernetes` here, and its address would
		// be a loopback one, which an endpoint must not be.
		apiserver = append(apiserver, "--endpoint-reconciler-type=none")
	} else {
		apiserver = append(apiserver, "--advertise-address="+n.API)
	}
	if wanted.Audit {
		apiserver = append(apiserver,
			"--audit-policy-file="+place.path("config/audit.yaml"),
			"--audit-log-path="+place.path("audit.log"),
			"--audit-log-mode=blocking")
	}
	programs := []*program{
		{name: "etcd", args: []string{
			"--name=e2e",
			"--data-dir=" + place.path("etcd"),
			"--listen-client-urls=" + etcd,
			"--advertise-client-urls=" + etcd,
			"--listen-peer-urls=" + peer,
			"--initial-advertise-peer-urls=" + peer,
			"--initial-cluster=e2e=" + peer,
			// The data need not outlive the machine.
			"--unsafe-no-fsync",
			"--log-level=warn",
			"--quota-backend-bytes=8589934592",
		}},
		{name: "kube-apiserver", args: apiserver},
		{name: "kube-controller-manager", client: true, args: []string{
			"--kubeconfig=" + pki("controller-manager.conf"),
			"--authentication-kubeconfig=" + pki("controller-manager.conf"),
			"--authorization-kubeconfig=" + pki("controller-manager.conf"),
			"--bind-address=127.0.0.1",
			fmt.Sprintf("--secure-port=%d", n.ManagerPort),
			"--leader-elect=false",
			"--use-service-account-credentials",
			"--service-account-private-key-file=" + pki("sa.key"),
			"--root-ca-file=" + pki("ca.crt"),
			"--cluster-signing-cert-file=" + pki("ca.crt"),
			"--cluster-signing-key-file=" + pki("ca.key"),
			"--profiling=false",
		}},
	}
	if !wanted.APIOnly {
		programs = append(programs, &program{name: "kube-scheduler", client: true, args: []string{
			"--kubeconfig=" + pki("scheduler.conf"),
			"--authentication-kubeconfig=" + pki("scheduler.conf"),
			"--authorization-kubeconfig=" + pki("scheduler.conf"),
			"--bind-address=127.0.0.1",
			fmt.Sprintf("--secure-port=%d", n.SchedPort),
			"--leader-elect=false",
			"--profiling=false",
		}})
	}
	return programs
}

// auditPolicy: one line for each finished request, without its body.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- level: Metadata
`

// start starts it; to be called on the main thread.
func (p *program) start(kube string, place folder) error {
	p.wanted = true
	if p.running() {
		return nil
	}
	log, err := os.OpenFile(place.path("log/"+p.name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	command := exec.Command(kube)
	command.Args = append([]string{p.name}, p.args...)
	command.Dir = string(place)
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	p.command, p.ended = command, make(chan struct{})
	go func(ended chan struct{}) {
		_ = command.Wait()
		close(ended)
	}(p.ended)
	return nil
}

func (p *program) running() bool {
	if p.command == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// kill ends it and waits until it is gone. SIGTERM would be no kinder: the API server takes a minute
// to end while anything watches it.
func (p *program) kill() {
	p.wanted = false
	if p.running() {
		_ = p.command.Process.Kill()
		<-p.ended
	}
}

// logTail is the end of a log, for an error.
func logTail(place folder, name string) string {
	text, err := os.ReadFile(place.path("log/" + name))
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

// until asks again and again, until the answer is yes, the time is over or one of the programs has ended.
func until(limit time.Duration, alive func() error, probe func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := probe()
		if err == nil {
			return nil
		}
		if gone := alive(); gone != nil {
			return gone
		}
		if time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}
