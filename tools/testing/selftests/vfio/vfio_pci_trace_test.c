// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the trace events of vfio-pci tell whoever wants to know who has a piece of
 * a device, and what becomes of it.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"

#define TRACEFS		"/sys/kernel/tracing"

#define IMPORTER_DELAY_MS	200
/* For what should come at once, on a slow machine */
#define PATIENCE_MS		30000
#define NSEC_PER_MSEC		1000000ULL

static const char *device_bdf, *importer_bdf;

/* An instance of the trace buffer, with the events of this device and of no other */
struct trace {
	char dir[96];
};

static void trace_write(struct trace *trace, const char *name, const char *text)
{
	char path[128];
	int fd;

	snprintf_assert(path, sizeof(path), "%s/%s", trace->dir, name);
	fd = open(path, O_WRONLY | O_TRUNC);
	VFIO_ASSERT_GE(fd, 0, "%s", path);
	VFIO_ASSERT_EQ(write(fd, text, strlen(text)), strlen(text), "%s", path);
	VFIO_ASSERT_EQ(close(fd), 0);
}

/* Returns why there is nothing to be seen, or NULL. */
static const char *trace_open(struct trace *trace)
{
	char filter[64];

	/* EBUSY where it is mounted, and what fails otherwise is missing below. */
	mount("tracefs", TRACEFS, "tracefs", 0, NULL);
	if (access(TRACEFS "/events/vfio_pci/vfio_pci_dma_buf_export", F_OK))
		return "The kernel has no trace events of vfio-pci";

	snprintf_assert(trace->dir, sizeof(trace->dir), TRACEFS "/instances/vfio_pci_trace_test-%s",
			device_bdf);
	/* A test that has failed may have left it. */
	rmdir(trace->dir);
	VFIO_ASSERT_EQ(mkdir(trace->dir, 0700), 0);

	snprintf_assert(filter, sizeof(filter), "device == \"%s\"", device_bdf);
	trace_write(trace, "events/vfio_pci/filter", filter);
	trace_write(trace, "events/vfio_pci/enable", "1");
	return NULL;
}

static void trace_close(struct trace *trace)
{
	trace_write(trace, "events/vfio_pci/enable", "0");
	VFIO_ASSERT_EQ(rmdir(trace->dir), 0);
}

static void trace_clear(struct trace *trace)
{
	trace_write(trace, "trace", "");
}

/*
 * How often an event is in the trace. @fields is what came last with it: all that
 * follows its name.
 */
static int trace_count(struct trace *trace, const char *event, char *fields, size_t size)
{
	char path[128], line[512], name[64], *found;
	int nr = 0;
	FILE *file;

	snprintf_assert(name, sizeof(name), " vfio_pci_%s: ", event);
	snprintf_assert(path, sizeof(path), "%s/trace", trace->dir);
	file = fopen(path, "r");
	VFIO_ASSERT_NOT_NULL(file);
	while (fgets(line, sizeof(line), file)) {
		if (line[0] == '#')
			continue;
		found = strstr(line, name);
		if (!found)
			continue;
		nr++;
		snprintf_assert(fields, size, "%s", found + strlen(name));
		fields[strcspn(fields, "\n")] = '\0';
	}
	VFIO_ASSERT_EQ(fclose(file), 0);
	return nr;
}

static int trace_nr(struct trace *trace, const char *event)
{
	char fields[256];

	return trace_count(trace, event, fields, sizeof(fields));
}

/* The number that a field has */
static u64 trace_field(const char *fields, const char *name)
{
	const char *found;
	char key[32];

	snprintf_assert(key, sizeof(key), " %s=", name);
	found = strstr(fields, key);
	VFIO_ASSERT_NOT_NULL(found, "%s in \"%s\"", name, fields);
	return strtoull(found + strlen(key), NULL, 0);
}

static unsigned long inode_number(int fd)
{
	struct stat st;

	VFIO_ASSERT_EQ(fstat(fd, &st), 0);
	return st.st_ino;
}

struct trace_test {
	struct trace trace;
	struct vfio_pci_device *device;
	size_t page_size;
	/* The first pages of the largest BAR, as the BAR, and as a DMABUF */
	struct mmap_target bar;
	struct mmap_target dmabuf;
	int nr_pages;
};

static const char *trace_test_setup(struct trace_test *test)
{
	const char *reason;

	test->page_size = getpagesize();
	test->device = vfio_pci_device_open(device_bdf, MODE_IOMMUFD);
	reason = vfio_pci_no_dmabuf_revoke(test->device);
	if (!reason)
		reason = mmap_target_open_largest(&test->dmabuf, test->device, true);
	if (reason)
		return reason;
	mmap_target_close(&test->dmabuf);

	VFIO_ASSERT_NULL(mmap_target_open(&test->bar, test->device, test->dmabuf.bar, false));
	test->nr_pages = min_t(u64, test->dmabuf.size / test->page_size, 4);
	test->bar.size = test->nr_pages * test->page_size;
	test->dmabuf.size = test->bar.size;

	reason = trace_open(&test->trace);
	if (reason)
		return reason;
	test->dmabuf.fd = vfio_pci_dmabuf_export_range(test->device, test->bar.bar, 0,
						       test->dmabuf.size);
	return NULL;
}

static void trace_test_teardown(struct trace_test *test)
{
	if (test->device) {
		mmap_target_close(&test->dmabuf);
		vfio_pci_device_close(test->device);
	}
	trace_close(&test->trace);
}

/* Returns an importer that has mapped the DMABUF, or -1 where there can be none. */
static int import(struct trace_test *test, enum vfio_dmabuf_importer_unmap unmap, u32 delay_ms)
{
	int importer;

	if (importer_missing())
		return -1;
	importer = importer_open();
	VFIO_ASSERT_EQ(importer_attach(importer, test->dmabuf.fd, importer_bdf, unmap, delay_ms),
		       0);
	if (!importer_map(importer))
		return importer;
	importer_close(importer);
	return -1;
}

FIXTURE(vfio_pci_trace_test) {
	struct trace_test test;
};

FIXTURE_SETUP(vfio_pci_trace_test)
{
	const char *reason = trace_test_setup(&self->test);

	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_trace_test)
{
	trace_test_teardown(&self->test);
}

/* Is it an event of this buffer? */
static void check_buffer(struct __test_metadata *_metadata, struct trace_test *test,
			 const char *fields, unsigned long inode)
{
	char start[64];

	snprintf_assert(start, sizeof(start), "device=%s bar=%d ", device_bdf, test->bar.bar);
	EXPECT_EQ(0, strncmp(start, fields, strlen(start))) TH_LOG("%s", fields);
	EXPECT_EQ(inode, trace_field(fields, "ino"));
}

TEST_F(vfio_pci_trace_test, export)
{
	struct trace_test *test = &self->test;
	size_t page_size = test->page_size;
	/* The last two are one. */
	struct vfio_region_dma_range ranges[] = {
		{ page_size, page_size }, { 0, page_size }, { page_size, page_size },
	};
	char fields[256];
	int fd;

	ASSERT_EQ(1, trace_count(&test->trace, "dma_buf_export", fields, sizeof(fields)));
	check_buffer(_metadata, test, fields, inode_number(test->dmabuf.fd));
	EXPECT_EQ(0, trace_field(fields, "offset"));
	EXPECT_EQ(test->dmabuf.size, trace_field(fields, "size"));
	EXPECT_EQ(1, trace_field(fields, "nr_ranges"));
	EXPECT_EQ(0, trace_field(fields, "write_combine"));

	if (test->nr_pages < 2)
		SKIP(return, "There is no BAR of two pages");
	fd = vfio_pci_dmabuf_export(test->device, test->bar.bar, O_RDONLY | O_CLOEXEC, ranges, 3);
	ASSERT_EQ(2, trace_count(&test->trace, "dma_buf_export", fields, sizeof(fields)));
	check_buffer(_metadata, test, fields, inode_number(fd));
	EXPECT_EQ(page_size, trace_field(fields, "offset"));
	EXPECT_EQ(3 * page_size, trace_field(fields, "size"));
	EXPECT_EQ(2, trace_field(fields, "nr_ranges"));
	ASSERT_EQ(0, close(fd));

	/* A mapping of the BAR is none, nor is what fails. */
	ASSERT_EQ(0, munmap(mmap_target_map(&test->bar, 0, page_size), page_size));
	ranges[2].length--;
	ASSERT_EQ(-EINVAL, __vfio_pci_dmabuf_export(test->device, test->bar.bar, O_RDONLY,
						    ranges, 3));
	EXPECT_EQ(2, trace_nr(&test->trace, "dma_buf_export"));
}

TEST_F(vfio_pci_trace_test, export_write_combine)
{
	struct trace_test *test = &self->test;
	const char *reason;
	char fields[256];
	int fd;

	reason = vfio_pci_bar_no_dmabuf_wc(test->device, test->bar.bar);
	if (reason)
		SKIP(return, "%s", reason);

	vfio_pci_dmabuf_revoke(test->device, test->dmabuf.fd);
	fd = vfio_pci_dmabuf_export_wc(test->device, test->bar.bar, 0, test->dmabuf.size);
	ASSERT_EQ(2, trace_count(&test->trace, "dma_buf_export", fields, sizeof(fields)));
	check_buffer(_metadata, test, fields, inode_number(fd));
	EXPECT_EQ(1, trace_field(fields, "write_combine"));
	ASSERT_EQ(0, close(fd));
}

/* Not before the last one has let go of it */
TEST_F(vfio_pci_trace_test, release)
{
	struct trace_test *test = &self->test;
	size_t page_size = test->page_size;
	char fields[256];
	unsigned long inode;
	void *vaddr;
	int fd;

	fd = vfio_pci_dmabuf_export_range(test->device, test->bar.bar, 0, page_size);
	inode = inode_number(fd);
	vaddr = mmap(NULL, page_size, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, vaddr);
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, munmap(mmap_target_map(&test->bar, 0, page_size), page_size));
	EXPECT_EQ(0, trace_nr(&test->trace, "dma_buf_release"));

	ASSERT_EQ(0, munmap(vaddr, page_size));
	ASSERT_EQ(1, trace_count(&test->trace, "dma_buf_release", fields, sizeof(fields)));
	check_buffer(_metadata, test, fields, inode);
}

/* What could not be exported, or mapped, was never there. */
TEST_F(vfio_pci_trace_test, no_release_without_export)
{
	struct trace_test *test = &self->test;
	const char *reason;
	int fd;

	reason = vfio_pci_bar_no_dmabuf_wc(test->device, test->bar.bar);
	if (reason)
		SKIP(return, "%s", reason);

	vfio_pci_dmabuf_revoke(test->device, test->dmabuf.fd);
	fd = vfio_pci_dmabuf_export_wc(test->device, test->bar.bar, 0, test->page_size);
	ASSERT_EQ(-EBUSY, __vfio_pci_dmabuf_export_range(test->device, test->bar.bar, 0,
							 test->page_size));
	ASSERT_EQ(MAP_FAILED, mmap(NULL, test->page_size, PROT_READ, MAP_SHARED, test->bar.fd,
				   test->bar.offset));
	ASSERT_EQ(EBUSY, errno);
	EXPECT_EQ(2, trace_nr(&test->trace, "dma_buf_export"));
	EXPECT_EQ(0, trace_nr(&test->trace, "dma_buf_release"));
	ASSERT_EQ(0, close(fd));
	EXPECT_EQ(1, trace_nr(&test->trace, "dma_buf_release"));
}

/* By the inode number an event is found again in what /proc and debugfs tell. */
TEST_F(vfio_pci_trace_test, inode_number)
{
	struct trace_test *test = &self->test;
	char fields[256], expected[64], path[64], line[256];
	bool found = false;
	void *vaddr;
	FILE *file;
	unsigned long inode;

	ASSERT_EQ(1, trace_count(&test->trace, "dma_buf_export", fields, sizeof(fields)));
	inode = trace_field(fields, "ino");

	vaddr = mmap_target_map(&test->dmabuf, 0, test->page_size);
	snprintf_assert(expected, sizeof(expected), " %lu ", inode);
	EXPECT_TRUE(proc_maps_has(vaddr, expected));

	snprintf_assert(path, sizeof(path), "/proc/self/fdinfo/%d", test->dmabuf.fd);
	snprintf_assert(expected, sizeof(expected), "ino:\t%lu\n", inode);
	file = fopen(path, "r");
	ASSERT_NE(NULL, file);
	while (fgets(line, sizeof(line), file))
		found |= !strcmp(line, expected);
	ASSERT_EQ(0, fclose(file));
	EXPECT_TRUE(found);

	file = fopen("/sys/kernel/debug/dma_buf/bufinfo", "r");
	if (!file)
		SKIP(return, "There is no debugfs");
	snprintf_assert(expected, sizeof(expected), "\t%08lu\tvfio:%s/BAR%d\n", inode,
			device_bdf, test->bar.bar);
	found = false;
	while (fgets(line, sizeof(line), file))
		found |= !!strstr(line, expected);
	ASSERT_EQ(0, fclose(file));
	EXPECT_TRUE(found) TH_LOG("No line with \"%s\"", expected);
	ASSERT_EQ(0, munmap(vaddr, test->page_size));
}

static int revoke_main(int sock, void *vaddr)
{
	client_sync(sock);
	client_sync(sock);
	return mmio_try_touch(vaddr);
}

TEST_F(vfio_pci_trace_test, revoke)
{
	struct trace_test *test = &self->test;
	unsigned long inode = inode_number(test->dmabuf.fd);
	struct client client;
	char fields[256];
	void *vaddr[2];

	vaddr[0] = mmap_target_map(&test->dmabuf, 0, test->page_size);
	vaddr[1] = mmap_target_map(&test->dmabuf, 0, test->dmabuf.size);
	ASSERT_TRUE(mmio_try_touch(vaddr[0]));
	/* It has both as well. */
	client = client_start(revoke_main, vaddr[0]);
	client_sync(client.sock);

	vfio_pci_dmabuf_revoke(test->device, test->dmabuf.fd);
	ASSERT_EQ(1, trace_count(&test->trace, "dma_buf_revoke", fields, sizeof(fields)));
	check_buffer(_metadata, test, fields, inode);
	EXPECT_EQ(4, trace_field(fields, "nr_vmas"));
	EXPECT_NE(0, trace_field(fields, "zap_ns"));
	EXPECT_EQ(0, trace_field(fields, "again"));
	client_sync(client.sock);
	ASSERT_EQ(0, client_wait(&client));

	ASSERT_EQ(0, munmap(vaddr[0], test->page_size));
	ASSERT_EQ(-EBADFD, __vfio_pci_dmabuf_revoke(test->device, test->dmabuf.fd));
	ASSERT_EQ(2, trace_count(&test->trace, "dma_buf_revoke", fields, sizeof(fields)));
	check_buffer(_metadata, test, fields, inode);
	EXPECT_EQ(1, trace_field(fields, "nr_vmas"));
	EXPECT_EQ(1, trace_field(fields, "again"));
	/* There was no importer to be waited for. */
	EXPECT_EQ(0, trace_nr(&test->trace, "dma_buf_drain"));

	/* It is about no DMABUF of this device. */
	ASSERT_EQ(-EBADF, __vfio_pci_dmabuf_revoke(test->device, -1));
	EXPECT_EQ(2, trace_nr(&test->trace, "dma_buf_revoke"));
	ASSERT_EQ(0, munmap(vaddr[1], test->dmabuf.size));
}

static void check_drained(struct __test_metadata *_metadata, struct trace_test *test, int nr)
{
	unsigned long inode = inode_number(test->dmabuf.fd);
	char fields[256];

	ASSERT_EQ(nr, trace_count(&test->trace, "dma_buf_drain", fields, sizeof(fields)));
	check_buffer(_metadata, test, fields, inode);
	ASSERT_EQ(nr, trace_count(&test->trace, "dma_buf_drained", fields, sizeof(fields)));
	check_buffer(_metadata, test, fields, inode);
	EXPECT_GE(trace_field(fields, "drain_ns"), IMPORTER_DELAY_MS * NSEC_PER_MSEC);
	EXPECT_EQ(0, trace_field(fields, "ret"));
}

/* Which buffer the owner waits for, and how long */
TEST_F(vfio_pci_trace_test, slow_importer)
{
	struct trace_test *test = &self->test;
	int importer;

	importer = import(test, VFIO_DMABUF_IMPORTER_UNMAP_DELAYED, IMPORTER_DELAY_MS);
	if (importer < 0)
		SKIP(return, "There is no importer for this device");

	vfio_pci_cmd_clear(test->device, PCI_COMMAND_MEMORY);
	check_drained(_metadata, test, 1);
	vfio_pci_cmd_set(test->device, PCI_COMMAND_MEMORY);

	/* It was not imported again. */
	vfio_pci_cmd_clear(test->device, PCI_COMMAND_MEMORY);
	EXPECT_EQ(1, trace_nr(&test->trace, "dma_buf_drain"));
	vfio_pci_cmd_set(test->device, PCI_COMMAND_MEMORY);

	ASSERT_EQ(0, importer_map(importer));
	vfio_pci_dmabuf_revoke(test->device, test->dmabuf.fd);
	check_drained(_metadata, test, 2);
	importer_close(importer);
}

static void on_signal(int number)
{
}

static void *revoke_thread(void *arg)
{
	struct trace_test *test = arg;

	return (void *)(long)__vfio_pci_dmabuf_revoke(test->device, test->dmabuf.fd);
}

/* An importer that does not unmap can be seen while the owner still waits for it. */
TEST_F(vfio_pci_trace_test, stuck_importer)
{
	struct sigaction action = { .sa_handler = on_signal };
	struct trace_test *test = &self->test;
	struct trace *trace = &test->trace;
	pthread_t thread;
	char fields[256];
	int importer, i;
	void *ret;

	importer = import(test, VFIO_DMABUF_IMPORTER_UNMAP_IOCTL, 0);
	if (importer < 0)
		SKIP(return, "There is no importer for this device");

	ASSERT_EQ(0, sigaction(SIGUSR1, &action, NULL));
	ASSERT_EQ(0, pthread_create(&thread, NULL, revoke_thread, test));
	for (i = 0; i < PATIENCE_MS && !trace_nr(trace, "dma_buf_drain"); i++)
		usleep(1000);
	EXPECT_EQ(1, trace_nr(trace, "dma_buf_drain"));
	EXPECT_EQ(1, trace_nr(trace, "dma_buf_revoke"));
	EXPECT_EQ(0, trace_nr(trace, "dma_buf_drained"));

	/* It may not sleep yet. */
	while (pthread_tryjoin_np(thread, &ret)) {
		pthread_kill(thread, SIGUSR1);
		usleep(1000);
	}
	/* Nothing may end this process before, whose exit would wait for the importer. */
	ASSERT_EQ(0, importer_unmap(importer));
	EXPECT_EQ(-EINTR, (long)ret);
	ASSERT_EQ(1, trace_count(trace, "dma_buf_drained", fields, sizeof(fields)));
	EXPECT_EQ(-EINTR, (int)trace_field(fields, "ret"));

	ASSERT_EQ(-EBADFD, __vfio_pci_dmabuf_revoke(test->device, test->dmabuf.fd));
	ASSERT_EQ(2, trace_count(trace, "dma_buf_revoke", fields, sizeof(fields)));
	EXPECT_EQ(1, trace_field(fields, "again"));
	importer_close(importer);
}

static void check_restored(struct __test_metadata *_metadata, struct trace *trace, bool enabled)
{
	char fields[256], expected[64];

	snprintf_assert(expected, sizeof(expected), "device=%s enabled=%d", device_bdf, enabled);
	ASSERT_LE(1, trace_count(trace, "memory_restore", fields, sizeof(fields)));
	EXPECT_EQ(0, strcmp(expected, fields)) TH_LOG("%s", fields);
}

static void check_fault(struct __test_metadata *_metadata, const char *fields,
			const void *vaddr, u64 offset, bool write, const char *reason)
{
	char expected[32];

	snprintf_assert(expected, sizeof(expected), " reason=%s", reason);
	EXPECT_NE(NULL, strstr(fields, expected)) TH_LOG("%s", fields);
	EXPECT_EQ((u64)vaddr, trace_field(fields, "address"));
	EXPECT_EQ(offset, trace_field(fields, "offset"));
	EXPECT_EQ(write, trace_field(fields, "write"));
}

TEST_F(vfio_pci_trace_test, memory_decode)
{
	struct trace_test *test = &self->test;
	char fields[256], start[64];
	u64 nr_buffers;
	void *vaddr[3];
	int fd;

	snprintf_assert(start, sizeof(start), "device=%s closed=0 ", device_bdf);
	vfio_pci_cmd_clear(test->device, PCI_COMMAND_MEMORY);
	ASSERT_EQ(1, trace_count(&test->trace, "memory_revoke", fields, sizeof(fields)));
	EXPECT_EQ(0, strncmp(start, fields, strlen(start))) TH_LOG("%s", fields);
	EXPECT_EQ(0, trace_field(fields, "nr_vmas"));
	EXPECT_NE(0, trace_field(fields, "zap_ns"));
	nr_buffers = trace_field(fields, "nr_buffers");
	EXPECT_EQ(1, nr_buffers);
	check_restored(_metadata, &test->trace, false);

	vfio_pci_cmd_set(test->device, PCI_COMMAND_MEMORY);
	EXPECT_EQ(1, trace_nr(&test->trace, "memory_revoke"));
	check_restored(_metadata, &test->trace, true);

	/* This changes something else. */
	trace_clear(&test->trace);
	vfio_pci_cmd_set(test->device, PCI_COMMAND_MASTER);
	vfio_pci_cmd_clear(test->device, PCI_COMMAND_MASTER);
	EXPECT_EQ(0, trace_nr(&test->trace, "memory_restore"));
	EXPECT_EQ(0, trace_nr(&test->trace, "memory_revoke"));

	/* A mapping of the BAR is a buffer of its own. */
	fd = vfio_pci_dmabuf_export_range(test->device, test->bar.bar, 0, test->page_size);
	vaddr[0] = mmap_target_map(&test->dmabuf, 0, test->page_size);
	vaddr[1] = mmap_target_map(&test->dmabuf, 0, test->page_size);
	vaddr[2] = mmap_target_map(&test->bar, 0, test->page_size);
	vfio_pci_cmd_clear(test->device, PCI_COMMAND_MEMORY);
	ASSERT_EQ(1, trace_count(&test->trace, "memory_revoke", fields, sizeof(fields)));
	EXPECT_EQ(nr_buffers + 2, trace_field(fields, "nr_buffers"));
	EXPECT_EQ(3, trace_field(fields, "nr_vmas"));
	ASSERT_EQ(0, munmap(vaddr[0], test->page_size));
	ASSERT_EQ(0, munmap(vaddr[1], test->page_size));
	ASSERT_EQ(0, munmap(vaddr[2], test->page_size));
	ASSERT_EQ(0, close(fd));
}

/* Neither is it there in D3, nor is it the same as when it is disabled. */
TEST_F(vfio_pci_trace_test, d3hot)
{
	struct trace_test *test = &self->test;
	char fields[256];
	void *vaddr;

	if (vfio_pci_d3hot.unsupported(test->device))
		SKIP(return, "%s", vfio_pci_d3hot.unsupported(test->device));

	vaddr = mmap_target_map(&test->dmabuf, 0, test->page_size);
	vfio_pci_d3hot.disable(test->device);
	ASSERT_LE(1, trace_nr(&test->trace, "memory_revoke"));
	check_restored(_metadata, &test->trace, false);
	ASSERT_FALSE(mmio_try_touch(vaddr));
	ASSERT_EQ(1, trace_count(&test->trace, "fault_failed", fields, sizeof(fields)));
	check_fault(_metadata, fields, vaddr, 0, false, "d3");

	vfio_pci_d3hot.enable(test->device);
	check_restored(_metadata, &test->trace, true);
	ASSERT_TRUE(mmio_try_touch(vaddr));
	EXPECT_EQ(1, trace_nr(&test->trace, "fault_failed"));
	ASSERT_EQ(0, munmap(vaddr, test->page_size));
}

TEST_F(vfio_pci_trace_test, reset)
{
	struct trace_test *test = &self->test;
	char fields[256];

	if (vfio_pci_function_reset.unsupported(test->device))
		SKIP(return, "%s", vfio_pci_function_reset.unsupported(test->device));
	vfio_pci_cmd_set(test->device, PCI_COMMAND_MEMORY);
	trace_clear(&test->trace);
	vfio_pci_function_reset.disable(test->device);
	ASSERT_LE(1, trace_count(&test->trace, "memory_revoke", fields, sizeof(fields)));
	EXPECT_EQ(1, trace_field(fields, "nr_buffers"));
	check_restored(_metadata, &test->trace, true);
}

/* What is left of a device that was closed still knows its name. */
TEST_F(vfio_pci_trace_test, last_close)
{
	struct trace_test *test = &self->test;
	unsigned long inode = inode_number(test->dmabuf.fd);
	char fields[256], start[64];
	void *vaddr;

	vaddr = mmap_target_map(&test->dmabuf, 0, test->page_size);
	ASSERT_TRUE(mmio_try_touch(vaddr));
	vfio_pci_device_close(test->device);
	test->device = NULL;

	snprintf_assert(start, sizeof(start), "device=%s closed=1 ", device_bdf);
	ASSERT_LE(1, trace_count(&test->trace, "memory_revoke", fields, sizeof(fields)));
	EXPECT_EQ(0, strncmp(start, fields, strlen(start))) TH_LOG("%s", fields);
	EXPECT_EQ(1, trace_field(fields, "nr_buffers"));
	EXPECT_EQ(1, trace_field(fields, "nr_vmas"));

	ASSERT_FALSE(mmio_try_touch(vaddr));
	ASSERT_EQ(1, trace_count(&test->trace, "fault_failed", fields, sizeof(fields)));
	check_buffer(_metadata, test, fields, inode);
	check_fault(_metadata, fields, vaddr, 0, false, "closed");
	ASSERT_EQ(0, munmap(vaddr, test->page_size));
	ASSERT_EQ(0, close(test->dmabuf.fd));
	ASSERT_EQ(1, trace_count(&test->trace, "dma_buf_release", fields, sizeof(fields)));
	check_buffer(_metadata, test, fields, inode);
}

TEST_F(vfio_pci_trace_test, fault_failed)
{
	struct trace_test *test = &self->test;
	unsigned long inode = inode_number(test->dmabuf.fd);
	struct trace *trace = &test->trace;
	u64 last = test->dmabuf.size - test->page_size;
	char fields[256], line[256];
	void *dmabuf, *bar;

	dmabuf = mmap_target_map(&test->dmabuf, 0, test->dmabuf.size);
	bar = mmap_target_map(&test->bar, last, test->page_size);
	ASSERT_TRUE(mmio_try_touch(dmabuf));
	ASSERT_TRUE(mmio_try_touch(bar));
	EXPECT_EQ(0, trace_nr(trace, "fault_failed"));

	vfio_pci_cmd_clear(test->device, PCI_COMMAND_MEMORY);
	ASSERT_FALSE(mmio_try_touch(dmabuf + last + 8));
	ASSERT_EQ(1, trace_count(trace, "fault_failed", fields, sizeof(fields)));
	check_buffer(_metadata, test, fields, inode);
	check_fault(_metadata, fields, dmabuf + last + 8, last + 8, false, "disabled");

	ASSERT_FALSE(mmio_try_write(bar + 4, 0));
	ASSERT_EQ(2, trace_count(trace, "fault_failed", fields, sizeof(fields)));
	/* Nobody can tell where the mapping starts, so this is of the BAR. */
	check_fault(_metadata, fields, bar + 4, last + 4, true, "disabled");
	snprintf_assert(line, sizeof(line), " %lu ",
			(unsigned long)trace_field(fields, "ino"));
	EXPECT_TRUE(proc_maps_has(bar, line));

	vfio_pci_cmd_set(test->device, PCI_COMMAND_MEMORY);
	ASSERT_TRUE(mmio_try_touch(dmabuf));
	EXPECT_EQ(2, trace_nr(trace, "fault_failed"));

	vfio_pci_dmabuf_revoke(test->device, test->dmabuf.fd);
	ASSERT_FALSE(mmio_try_touch(dmabuf));
	ASSERT_EQ(3, trace_count(trace, "fault_failed", fields, sizeof(fields)));
	check_buffer(_metadata, test, fields, inode);
	check_fault(_metadata, fields, dmabuf, 0, false, "revoked");

	ASSERT_EQ(0, munmap(bar, test->page_size));
	ASSERT_EQ(0, munmap(dmabuf, test->dmabuf.size));
}

int main(int argc, char *argv[])
{
	char **bdfs;
	int nr_bdfs;

	bdfs = vfio_selftests_get_bdfs(&argc, argv, &nr_bdfs);
	device_bdf = bdfs[0];
	importer_bdf = bdfs[nr_bdfs - 1];
	return test_harness_run(argc, argv);
}
