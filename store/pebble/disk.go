package pebble

import (
	"os"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// disk is the file system that Pebble writes to. Where it can't write its log
// Pebble ends the process, by a panic that can't be caught. So it never learns
// of that: the store fails, and from then on all writes do nothing and succeed.
// The directory stays as it was at that moment, as after a crash, without a hole
// in the log and without a file removed that is still needed; and since the
// store has failed, nobody is answered from what was not written.
type disk struct {
	vfs.FS
	s    *Store
	sink *vfs.MemFS // for files that are made when nothing is written any more
}

func newDisk(s *Store) *disk { return &disk{FS: s.opts.FS, s: s, sink: vfs.NewMem()} }

func (d *disk) frozen() bool { return d.s.failure.Load() != nil }

// change does a change, unless the store has failed.
func (d *disk) change(f func() error) error {
	if d.frozen() {
		return nil
	}
	return f()
}

// create makes a file by f.
func (d *disk) create(name string, f func() (vfs.File, error)) (vfs.File, error) {
	isLog := strings.HasSuffix(name, ".log")
	if !d.frozen() {
		file, err := f()
		if err == nil {
			return &diskFile{File: file, d: d, isLog: isLog}, nil
		}
		if !isLog {
			return nil, err
		}
		_ = d.s.fail(err) // all calls return it
	}
	return d.sink.Create(d.PathBase(name), vfs.WriteCategoryUnspecified)
}

// Create and OpenReadWrite make files.
func (d *disk) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return d.create(name, func() (vfs.File, error) { return d.FS.Create(name, category) })
}

func (d *disk) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return d.create(name, func() (vfs.File, error) { return d.FS.OpenReadWrite(name, category, opts...) })
}

// ReuseForWrite overwrites an old log, which a disk syncs faster than a new one.
// While there is little room it gives the old one back instead.
func (d *disk) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return d.create(newname, func() (vfs.File, error) {
		if d.s.lowDisk.Load() && d.FS.Remove(oldname) == nil {
			return d.FS.Create(newname, category)
		}
		return d.FS.ReuseForWrite(oldname, newname, category)
	})
}

// OpenDir opens a directory, whose Sync is a write of the log too: it makes the
// log's file be there.
func (d *disk) OpenDir(name string) (vfs.File, error) {
	file, err := d.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &diskFile{File: file, d: d, isLog: true}, nil
}

// Link, Remove, RemoveAll, Rename and MkdirAll change directories.
func (d *disk) Link(oldname, newname string) error {
	return d.change(func() error { return d.FS.Link(oldname, newname) })
}

func (d *disk) Remove(name string) error {
	return d.change(func() error { return d.FS.Remove(name) })
}

func (d *disk) RemoveAll(name string) error {
	return d.change(func() error { return d.FS.RemoveAll(name) })
}

func (d *disk) Rename(oldname, newname string) error {
	return d.change(func() error { return d.FS.Rename(oldname, newname) })
}

func (d *disk) MkdirAll(dir string, perm os.FileMode) error {
	return d.change(func() error { return d.FS.MkdirAll(dir, perm) })
}

// diskFile is a file on a disk.
type diskFile struct {
	vfs.File
	d     *disk
	isLog bool // an error makes the store fail

	written, allocated int64 // of a log; for its only writer
}

// logStep is how much of the disk a log takes ahead of what is written to it:
// syncs that find their blocks there take half of the time.
const logStep = 4 << 20

// do does a change, and returns its error only to those who live with it.
func (f *diskFile) do(change func() error) error {
	if f.d.frozen() {
		return nil
	}
	err := change()
	if err != nil && f.isLog {
		_ = f.d.s.fail(err) // all calls return it
		return nil
	}
	return err
}

func (f *diskFile) Write(b []byte) (int, error) {
	return len(b), f.do(func() error {
		if f.written += int64(len(b)); f.isLog && f.written > f.allocated && !f.d.s.lowDisk.Load() {
			// In vain it costs time, not the log: then the write says what is wrong.
			_ = f.File.Preallocate(f.allocated, f.written-f.allocated+logStep)
			f.allocated = f.written + logStep
		}
		_, err := f.File.Write(b)
		return err
	})
}

func (f *diskFile) WriteAt(b []byte, at int64) (int, error) {
	return len(b), f.do(func() error { _, err := f.File.WriteAt(b, at); return err })
}

// Preallocate does nothing: Pebble asks for the size of a full memtable for each
// log, however little is written to it, which on a small disk is all there is.
func (f *diskFile) Preallocate(int64, int64) error { return nil }

func (f *diskFile) Sync() error     { return f.do(f.File.Sync) }
func (f *diskFile) SyncData() error { return f.do(f.File.SyncData) }

func (f *diskFile) SyncTo(length int64) (full bool, err error) {
	err = f.do(func() error { full, err = f.File.SyncTo(length); return err })
	return full, err
}

// Close frees the file whatever the store's state is.
func (f *diskFile) Close() error {
	if err := f.File.Close(); err != nil && !f.d.frozen() {
		return f.do(func() error { return err })
	}
	return nil
}
