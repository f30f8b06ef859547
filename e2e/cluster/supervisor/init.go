package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	cniPlugins       = "/usr/lib/cni"
	containerdSocket = "/run/containerd/containerd.sock"
	pauseImage       = "holdfast.dev/e2e/pause:1"
)

var ctr = []string{"ctr", "--address", containerdSocket, "--namespace", "k8s.io"}

// nodeInit is the first process of the node: it sets the namespaces up, starts the programs of a node and takes in the processes that lose their parents. When one of them ends, so does it, and
// with it everything else here.
func nodeInit(args []string) error {
	var config nodeConfig
	if len(args) != 1 {
		return errors.New("node-init is for this program's own use")
	}
	if err := json.Unmarshal([]byte(args[0]), &config); err != nil {
		return err
	}
	// Until the network is joined there is nothing to do; the other end closes the pipe then.
	if _, err := io.ReadAll(os.NewFile(3, "wait")); err != nil {
		return err
	}
	place := folder(config.Dir)
	steps := []struct {
		what string
		run  func() error
	}{
		{"the control groups", func() error { return makeCgroups(config.Cgroup) }},
		{"the file systems", func() error { return mountAll(place) }},
		{"the network", config.Network.joinInside},
		{"the configuration", func() error { return writeNodeConfig(place, config) }},
	}
	for _, step := range steps {
		if err := step.run(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	if err := syscall.Sethostname([]byte(nodeName)); err != nil {
		return err
	}
	if err := os.Setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"); err != nil {
		return err
	}
	kube, err := kubeBinary()
	if err != nil {
		return err
	}
	important := map[int]string{}
	start := func(name, path string, args ...string) error {
		id, err := spawn(place, name, path, args)
		important[id] = name
		return err
	}
	if err := start("kube-proxy", kube, "--config="+place.path("config/proxy.yaml"), "--v=1"); err != nil {
		return err
	}
	dns := []string{"--kubeconfig=" + place.path("pki/dns.conf"), "--listen=" + config.Network.Node + ":53"}
	if err := start("dns", kube, dns...); err != nil {
		return err
	}
	// Debian's, or that of somebody else, elsewhere.
	containerd, err := exec.LookPath("containerd")
	if err != nil {
		return err
	}
	if err := start("containerd", containerd, "--config", place.path("config/containerd.toml")); err != nil {
		return err
	}
	if err := untilContainerd(); err != nil {
		return err
	}
	importer, err := exec.LookPath("ctr")
	if err != nil {
		return err
	}
	pause, err := spawn(place, "import", importer, append(ctr[1:], "images", "import", place.path("config/pause.tar")))
	if err != nil {
		return err
	}
	if err := start("kubelet", kube,
		"--config="+place.path("config/kubelet.yaml"),
		"--kubeconfig="+place.path("pki/kubelet.conf"),
		"--root-dir="+place.path("kubelet"),
		"--hostname-override="+nodeName,
		"--node-ip="+config.Network.Node,
		"--v=1"); err != nil {
		return err
	}
	for {
		var how syscall.WaitStatus
		id, err := syscall.Wait4(-1, &how, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return err
		case important[id] != "":
			return fmt.Errorf("%s ended (%v):\n%s", important[id], how, logTail(place, important[id]))
		case id == pause && how.ExitStatus() != 0:
			return fmt.Errorf("importing the pause image:\n%s", logTail(place, "import"))
		}
	}
}

// spawn starts a program without anybody waiting for it but the loop above.
func spawn(place folder, name, path string, args []string) (int, error) {
	log, err := os.OpenFile(place.path("log/"+name), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	nothing, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer nothing.Close()
	process, err := os.StartProcess(path, append([]string{name}, args...), &os.ProcAttr{
		Dir:   "/",
		Env:   os.Environ(),
		Files: []*os.File{nothing, log, log},
	})
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return process.Pid, nil
}

func untilContainerd() error {
	return until(30*time.Second, func() error { return nil }, func() error {
		connection, err := net.Dial("unix", containerdSocket)
		if err == nil {
			connection.Close()
		}
		return err
	})
}

// mountAll gives the node file systems of its own where its programs write to fixed places.
func mountAll(place folder) error {
	const private = syscall.MS_REC | syscall.MS_PRIVATE
	if err := syscall.Mount("", "/", "", private, ""); err != nil {
		return fmt.Errorf("making the mounts private: %w", err)
	}
	// Mounts that the kubelet makes must reach the containers; the namespace's own peer group is new.
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_SHARED, ""); err != nil {
		return fmt.Errorf("sharing the mounts: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("/proc: %w", err)
	}
	for _, path := range []string{"/run", "/var/log", "/var/lib/cni", "/var/lib/kubelet", "/etc/cni"} {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		if strings.HasPrefix(string(place), path+"/") {
			return fmt.Errorf("the folder %s lies in %s, which the node hides", place, path)
		}
		if err := syscall.Mount("tmpfs", path, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if err := os.MkdirAll("/run/lock", 0o755); err != nil {
		return err
	}
	return hideSysctls(place)
}

// hideSysctls lays files over the settings that a kubelet changes and that no namespace holds: it may
// write what it likes there, and the machine stays as it is.
func hideSysctls(place folder) error {
	if err := os.MkdirAll(place.path("sys"), 0o755); err != nil {
		return err
	}
	for _, name := range []string{
		"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
		"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
	} {
		real := filepath.Join("/proc/sys", name)
		content, err := os.ReadFile(real)
		if err != nil {
			continue
		}
		file := place.path("sys/" + strings.ReplaceAll(name, "/", "."))
		if err := os.WriteFile(file, content, 0o644); err != nil {
			return err
		}
		if err := syscall.Mount(file, real, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("%s: %w", real, err)
		}
	}
	return nil
}
