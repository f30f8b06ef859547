package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	cgroupRoot   = "/sys/fs/cgroup"
	cgroupPrefix = "holdfast-e2e-"
)

// unified says whether this machine has cgroups v2 alone.
func unified() bool {
	_, err := os.Stat(filepath.Join(cgroupRoot, "cgroup.controllers"))
	return err == nil
}

// hierarchies are the folders that a group is made in: the one of v2, or those of each controller of v1.
func hierarchies() []string {
	if unified() {
		return []string{cgroupRoot}
	}
	entries, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return nil
	}
	var found []string
	for _, entry := range entries {
		path := filepath.Join(cgroupRoot, entry.Name())
		if _, err := os.Stat(filepath.Join(path, "cgroup.procs")); entry.IsDir() && err == nil {
			found = append(found, path)
		}
	}
	return found
}

// makeCgroups makes the group in every hierarchy and moves this process into a child of it.
func makeCgroups(group string) error {
	for _, hierarchy := range hierarchies() {
		top := filepath.Join(hierarchy, group)
		own := filepath.Join(top, "node")
		for _, path := range []string{top, own} {
			if err := os.Mkdir(path, 0o755); err != nil && !os.IsExist(err) {
				return err
			}
			// A new cpuset of v1 is empty, and nothing can be moved into an empty one.
			for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
				content, err := os.ReadFile(filepath.Join(filepath.Dir(path), file))
				if err != nil || unified() {
					continue
				}
				if err := os.WriteFile(filepath.Join(path, file), content, 0o644); err != nil {
					return fmt.Errorf("%s: %w", path, err)
				}
			}
		}
		if err := os.WriteFile(filepath.Join(own, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0o644); err != nil {
			return fmt.Errorf("moving into %s: %w", own, err)
		}
	}
	return nil
}

// removeCgroups removes the group and all below it; its processes are gone, or going.
func removeCgroups(group string) {
	if !strings.HasPrefix(group, cgroupPrefix) {
		return
	}
	for _, hierarchy := range hierarchies() {
		top := filepath.Join(hierarchy, group)
		for range 100 {
			var folders []string
			_ = filepath.WalkDir(top, func(path string, entry os.DirEntry, err error) error {
				if err == nil && entry.IsDir() {
					folders = append(folders, path)
				}
				return nil
			})
			for i := len(folders) - 1; i >= 0; i-- {
				_ = syscall.Rmdir(folders[i])
			}
			if _, err := os.Stat(top); err != nil {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// sweepCgroups removes the groups of clusters whose supervisor was killed.
func sweepCgroups() {
	for _, hierarchy := range hierarchies() {
		found, err := filepath.Glob(filepath.Join(hierarchy, cgroupPrefix+"*"))
		if err != nil {
			continue
		}
		for _, path := range found {
			group := filepath.Base(path)
			id, err := strconv.Atoi(strings.TrimPrefix(group, cgroupPrefix))
			if err == nil && syscall.Kill(id, 0) == syscall.ESRCH {
				removeCgroups(group)
			}
		}
	}
}
