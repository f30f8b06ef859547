package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// folder is the one place that a cluster writes to.
type folder string

func (f folder) path(name string) string { return filepath.Join(string(f), name) }

// options are what `up` was asked for.
type options struct {
	APIOnly bool `json:"apiOnly"`
	Audit   bool `json:"audit"`
}

// state is what other processes need to know of a running cluster; the file `state.json`.
type state struct {
	Options options `json:"options"`
	Network network `json:"network"`
	// Supervisor and Node are process ids; Node is the first process of the node's namespaces.
	Supervisor int `json:"supervisor"`
	Node       int `json:"node,omitempty"`
	// Cgroup is the node's control group, in every hierarchy.
	Cgroup string `json:"cgroup,omitempty"`
}

func (f folder) writeState(s state) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return writeWhole(f.path("state.json"), append(text, '\n'))
}

func (f folder) readState() (state, error) {
	var s state
	text, err := os.ReadFile(f.path("state.json"))
	if err != nil {
		return s, fmt.Errorf("no cluster runs in %s", f)
	}
	return s, json.Unmarshal(text, &s)
}

func writeWhole(path string, content []byte) error {
	part := path + ".part"
	if err := os.WriteFile(part, content, 0o600); err != nil {
		return err
	}
	return os.Rename(part, path)
}

// lock keeps a second cluster out of the folder; it is released when the process ends.
func (f folder) lock() (*os.File, error) {
	if err := os.MkdirAll(f.path("log"), 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(f.path("lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		return nil, fmt.Errorf("another cluster runs in %s", f)
	}
	return file, nil
}

// clear removes what an earlier cluster left, but for its logs.
func (f folder) clear() error {
	for _, name := range []string{"ready", "state.json", "control", "kubeconfig", "audit.log", "pki", "etcd", "containerd", "kubelet", "cni", "sys", "config"} {
		if err := os.RemoveAll(f.path(name)); err != nil {
			return err
		}
	}
	return nil
}
