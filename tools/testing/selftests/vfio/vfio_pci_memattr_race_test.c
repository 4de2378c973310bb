// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who wants a page write-combined races with who wants it uncached, and with what
 * takes it from either: there are never two memory types of a page at a time, and
 * none is left behind.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/compiler.h>
#include <linux/kernel.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"

/* How often each race is run: VFIO_SELFTESTS_RACE_ROUNDS asks for more, or less. */
#define RACE_ROUNDS	100

/* Seconds, to end a hang and nothing else: a round may take a second, or two. */
#define RACE_TIMEOUT	3600

/* What they want, in pages of the BAR. All of them want one of these. */
#define WC_FIRST	4
#define WC_NR		4
#define UC_FIRST	6
#define UC_NR		4
#define BAR_FIRST	7
#define BAR_NR		5
#define SHARED_PAGE	7
#define READ_FIRST	3
#define READ_NR		10

/* How long somebody waits who did not get it */
#define LOSER_USEC	100

static const char *device_bdf;

static int race_rounds(void)
{
	const char *rounds = getenv("VFIO_SELFTESTS_RACE_ROUNDS");

	return rounds ? max(atoi(rounds), 1) : RACE_ROUNDS;
}

static void race_report(const char *name, int rounds)
{
	fprintf(TH_LOG_STREAM, "# races: memory attributes and %s %d rounds\n", name, rounds);
}

/* How often a page that all of them want is write-combined in the list of memory types */
static int nr_wc_types(struct memattr_test *test)
{
	const u64 start = test->phys + SHARED_PAGE * test->page_size;

	return memory_type_count(start, start + test->page_size, TYPE_WRITE_COMBINING);
}

/* All of these return something, or a negative errno. */
static int export_wc(struct memattr_test *test)
{
	return memattr_export_wc(test, WC_FIRST * test->page_size, WC_NR * test->page_size);
}

static int export_uc(struct memattr_test *test)
{
	return memattr_export_uc(test, UC_FIRST * test->page_size, UC_NR * test->page_size);
}

static long map_bar(struct memattr_test *test)
{
	void *vaddr = mmap(NULL, BAR_NR * test->page_size, PROT_READ, MAP_SHARED, test->device->fd,
			   test->offset + BAR_FIRST * test->page_size);

	return vaddr == MAP_FAILED ? -errno : (long)vaddr;
}

static int set_ioeventfd(struct memattr_test *test, int fd)
{
	struct vfio_device_ioeventfd ioeventfd = {
		.argsz = sizeof(ioeventfd),
		.flags = sizeof(u32),
		.offset = test->offset + SHARED_PAGE * test->page_size,
		.fd = fd,
	};

	return ioctl(test->device->fd, VFIO_DEVICE_IOEVENTFD, &ioeventfd) ? -errno : 0;
}

static void *map_shared(struct memattr_test *test, int fd, int first)
{
	void *vaddr = mmap(NULL, test->page_size, PROT_READ, MAP_SHARED, fd,
			   (SHARED_PAGE - first) * test->page_size);

	VFIO_ASSERT_NE(vaddr, MAP_FAILED);
	return vaddr;
}

enum racer_type {
	WC_REVOKE,	/* write-combined, until it is revoked */
	WC_CLOSE,	/* write-combined, until it is released */
	UC,		/* a DMABUF that is uncached */
	BAR,		/* a mapping of the BAR */
	IOEVENTFD,	/* an ioeventfd */
	READ,		/* read and write the BAR, whatever it is */
	DECODE,		/* switch the memory off and on */
	NR_RACERS,
};

struct race;

struct racer {
	struct race *race;
	enum racer_type type;
	pthread_t thread;
	bool running;
	u64 rounds;
	u64 wins;
};

struct race {
	struct memattr_test *test;
	bool stop;
	/* Those who have the page now, after they got it and before they give it back */
	int nr_wc;
	int nr_uc;
	/* What must never be: one of each type, or a list that does not say so */
	u64 both;
	u64 listed;
	u64 unlisted;
	struct racer racers[NR_RACERS];
};

static bool is_wc(const struct racer *racer)
{
	return racer->type == WC_REVOKE || racer->type == WC_CLOSE;
}

/*
 * The kernel counts entries when it shows them one after the other, so it skips one if
 * another one before it goes away. Look again, and again.
 */
#define LIST_TRIES	100

static bool is_unlisted(struct race *race)
{
	int i;

	for (i = 0; i < LIST_TRIES; i++) {
		if (nr_wc_types(race->test))
			return false;
	}
	return true;
}

static void check_grant(struct racer *racer)
{
	struct race *race = racer->race;
	int *nr_others = is_wc(racer) ? &race->nr_uc : &race->nr_wc;

	/* The list has it for as long as somebody has it, and for no moment longer. */
	if (memory_types_shown() && is_wc(racer) && is_unlisted(race))
		__atomic_add_fetch(&race->unlisted, 1, __ATOMIC_SEQ_CST);
	if (memory_types_shown() && !is_wc(racer) && nr_wc_types(race->test))
		__atomic_add_fetch(&race->listed, 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(nr_others, __ATOMIC_SEQ_CST))
		__atomic_add_fetch(&race->both, 1, __ATOMIC_SEQ_CST);
}

/* Each says so before it looks at the other: of two at least one sees it. */
static void begin_grant(struct racer *racer)
{
	struct race *race = racer->race;

	__atomic_add_fetch(is_wc(racer) ? &race->nr_wc : &race->nr_uc, 1, __ATOMIC_SEQ_CST);
	check_grant(racer);
	WRITE_ONCE(racer->wins, racer->wins + 1);
}

static void end_grant(struct racer *racer)
{
	struct race *race = racer->race;

	check_grant(racer);
	__atomic_sub_fetch(is_wc(racer) ? &race->nr_wc : &race->nr_uc, 1, __ATOMIC_SEQ_CST);
}

static bool is_busy(long ret)
{
	VFIO_ASSERT_TRUE(ret >= 0 || ret == -EBUSY, "%s\n", strerror(-ret));
	return ret < 0;
}

/* Memory may be disabled, so a touch need not succeed. */
static void try_dmabuf(struct racer *racer)
{
	struct memattr_test *test = racer->race->test;
	int fd = racer->type == UC ? export_uc(test) : export_wc(test);
	void *vaddr;

	if (is_busy(fd))
		return;
	begin_grant(racer);
	vaddr = map_shared(test, fd, racer->type == UC ? UC_FIRST : WC_FIRST);
	mmio_try_touch(vaddr);
	/* Let others find it taken, on a single CPU as well. */
	sched_yield();
	end_grant(racer);

	if (racer->type == WC_REVOKE) {
		vfio_pci_dmabuf_revoke(test->device, fd);
		VFIO_ASSERT_FALSE(mmio_try_touch(vaddr));
	}
	VFIO_ASSERT_EQ(close(fd), 0);
	VFIO_ASSERT_EQ(munmap(vaddr, test->page_size), 0);
}

static void try_bar(struct racer *racer)
{
	struct memattr_test *test = racer->race->test;
	long vaddr = map_bar(test);

	if (is_busy(vaddr))
		return;
	begin_grant(racer);
	mmio_try_touch((void *)vaddr);
	sched_yield();
	end_grant(racer);
	VFIO_ASSERT_EQ(munmap((void *)vaddr, BAR_NR * test->page_size), 0);
}

static void try_ioeventfd(struct racer *racer)
{
	struct memattr_test *test = racer->race->test;
	int fd = eventfd(0, EFD_CLOEXEC);

	VFIO_ASSERT_GE(fd, 0);
	if (!is_busy(set_ioeventfd(test, fd))) {
		begin_grant(racer);
		sched_yield();
		end_grant(racer);
		VFIO_ASSERT_EQ(set_ioeventfd(test, -1), 0);
	}
	VFIO_ASSERT_EQ(close(fd), 0);
}

/* Nobody else writes there, so it stays what it is. */
static void try_read(struct racer *racer)
{
	struct race *race = racer->race;
	struct memattr_test *test = race->test;
	const size_t size = READ_NR * test->page_size;
	const u64 offset = test->offset + READ_FIRST * test->page_size;
	bool disabled = race->racers[DECODE].running;
	u8 *data = calloc_assert(2, size);
	ssize_t ret;

	memset(data, racer->rounds, size);
	if (test->scratch.ram) {
		ret = pwrite(test->device->fd, data, size, offset);
		VFIO_ASSERT_TRUE(ret == size || (disabled && ret == -1 && errno == EIO));
	}
	if (!test->scratch.ram || ret == size) {
		ret = pread(test->device->fd, data + size, size, offset);
		VFIO_ASSERT_TRUE(ret == size || (disabled && ret == -1 && errno == EIO));
		if (test->scratch.ram && ret == size)
			VFIO_ASSERT_EQ(memcmp(data, data + size, size), 0);
	}
	if (ret == size)
		WRITE_ONCE(racer->wins, racer->wins + 1);
	free(data);
}

static u64 now_usec(void)
{
	struct timespec ts;

	VFIO_ASSERT_EQ(clock_gettime(CLOCK_MONOTONIC, &ts), 0);
	return ts.tv_sec * 1000000UL + ts.tv_nsec / 1000;
}

static void *racer(void *arg)
{
	struct racer *racer = arg;
	struct race *race = racer->race;
	u64 start, wins;

	while (!READ_ONCE(race->stop)) {
		start = now_usec();
		wins = racer->wins;
		switch (racer->type) {
		case BAR:
			try_bar(racer);
			break;
		case IOEVENTFD:
			try_ioeventfd(racer);
			break;
		case READ:
			try_read(racer);
			break;
		case DECODE:
			vfio_pci_memory_decode.disable(race->test->device);
			vfio_pci_memory_decode.enable(race->test->device);
			WRITE_ONCE(racer->wins, racer->wins + 1);
			break;
		default:
			try_dmabuf(racer);
			break;
		}
		WRITE_ONCE(racer->rounds, racer->rounds + 1);
		/*
		 * Who had it leaves it to others for as long, or they might never get it;
		 * and who did not does not keep them from the locks.
		 */
		usleep(racer->wins != wins ? now_usec() - start : LOSER_USEC);
	}
	return NULL;
}

FIXTURE(vfio_pci_memattr_race_test) {
	struct memattr_test test;
	struct race race;
};

FIXTURE_VARIANT(vfio_pci_memattr_race_test) {
	const char *name;
	unsigned int types;
};

#define RACE(_name, _types)							\
FIXTURE_VARIANT_ADD(vfio_pci_memattr_race_test, _name) {			\
	.name = #_name,								\
	.types = 1U << WC_REVOKE | 1U << WC_CLOSE | (_types),			\
}

RACE(dmabuf, 1U << UC);
RACE(bar_mmap, 1U << BAR);
RACE(ioeventfd, 1U << IOEVENTFD);
RACE(read, 1U << UC | 1U << READ);
RACE(all, (1U << NR_RACERS) - 1);

FIXTURE_SETUP(vfio_pci_memattr_race_test)
{
	const char *reason = memattr_open_wc(&self->test, device_bdf);

	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_memattr_race_test)
{
	memattr_close(&self->test);
}

/* So many rounds of each of them, and until each has had it in every tenth */
static void wait_for_rounds(struct race *race, u64 rounds)
{
	int i;

	for (i = 0; i < NR_RACERS; i++) {
		struct racer *racer = &race->racers[i];

		while (racer->running && (READ_ONCE(racer->rounds) < rounds ||
					  READ_ONCE(racer->wins) < (rounds + 9) / 10))
			usleep(1000);
	}
}

TEST_F_TIMEOUT(vfio_pci_memattr_race_test, one_type_at_a_time, RACE_TIMEOUT)
{
	struct race *race = &self->race;
	int rounds = race_rounds(), i;

	race->test = &self->test;
	for (i = 0; i < NR_RACERS; i++) {
		race->racers[i].race = race;
		race->racers[i].type = i;
		race->racers[i].running = variant->types & 1U << i;
	}
	for (i = 0; i < NR_RACERS; i++) {
		if (race->racers[i].running)
			ASSERT_EQ(0, pthread_create(&race->racers[i].thread, NULL, racer,
						    &race->racers[i]));
	}
	wait_for_rounds(race, rounds);
	WRITE_ONCE(race->stop, true);
	for (i = 0; i < NR_RACERS; i++) {
		if (!race->racers[i].running)
			continue;
		ASSERT_EQ(0, pthread_join(race->racers[i].thread, NULL));
		TH_LOG("racer %d: %lu rounds, %lu wins", i, race->racers[i].rounds,
		       race->racers[i].wins);
	}
	EXPECT_EQ(0, race->both);
	EXPECT_EQ(0, race->listed);
	EXPECT_EQ(0, race->unlisted);
	EXPECT_EQ(0, race->nr_wc);
	EXPECT_EQ(0, race->nr_uc);
	EXPECT_EQ(0, nr_wc_types(&self->test));
	race_report(variant->name, rounds);
}

/* Two that begin at the same time, one of them in a thread */
struct contender {
	struct memattr_test *test;
	enum racer_type type;
	pthread_barrier_t barrier;
	pthread_t thread;
	int fd;
	long ret;
};

/* What a contender does, with an fd that there is already */
static long try_type(struct memattr_test *test, enum racer_type type, int fd)
{
	switch (type) {
	case WC_REVOKE:
		return __vfio_pci_dmabuf_revoke(test->device, fd);
	case WC_CLOSE:
		return close(fd);
	case UC:
		return export_uc(test);
	case BAR:
		return map_bar(test);
	default:
		return set_ioeventfd(test, fd);
	}
}

static void give_back(struct memattr_test *test, enum racer_type type, long got)
{
	switch (type) {
	case UC:
		VFIO_ASSERT_EQ(close(got), 0);
		break;
	case BAR:
		VFIO_ASSERT_EQ(munmap((void *)got, BAR_NR * test->page_size), 0);
		break;
	default:
		VFIO_ASSERT_EQ(set_ioeventfd(test, -1), 0);
		break;
	}
}

static void *contender(void *arg)
{
	struct contender *contender = arg;

	pthread_barrier_wait(&contender->barrier);
	contender->ret = try_type(contender->test, contender->type, contender->fd);
	return NULL;
}

static void contender_start(struct contender *contender_)
{
	VFIO_ASSERT_EQ(pthread_barrier_init(&contender_->barrier, NULL, 2), 0);
	VFIO_ASSERT_EQ(pthread_create(&contender_->thread, NULL, contender, contender_), 0);
	pthread_barrier_wait(&contender_->barrier);
}

static void contender_finish(struct contender *contender_)
{
	VFIO_ASSERT_EQ(pthread_join(contender_->thread, NULL), 0);
	VFIO_ASSERT_EQ(pthread_barrier_destroy(&contender_->barrier), 0);
}

FIXTURE(vfio_pci_memattr_contest_test) {
	struct memattr_test test;
};

FIXTURE_VARIANT(vfio_pci_memattr_contest_test) {
	const char *name;
	enum racer_type type;
};

#define CONTEST(_name, _type)							\
FIXTURE_VARIANT_ADD(vfio_pci_memattr_contest_test, _name) {			\
	.name = #_name,								\
	.type = _type,								\
}

CONTEST(dmabuf, UC);
CONTEST(bar_mmap, BAR);
CONTEST(ioeventfd, IOEVENTFD);
CONTEST(revoke, WC_REVOKE);
CONTEST(close, WC_CLOSE);

FIXTURE_SETUP(vfio_pci_memattr_contest_test)
{
	const char *reason = memattr_open_wc(&self->test, device_bdf);

	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_memattr_contest_test)
{
	memattr_close(&self->test);
}

/* Who wants it uncached begins as well: one of them has it, or none. */
static void contest_grant(struct __test_metadata *_metadata, struct memattr_test *test,
			  enum racer_type type)
{
	struct contender contender = {
		.test = test,
		.type = type,
		.fd = -1,
	};
	int wc;

	if (type == IOEVENTFD)
		contender.fd = eventfd(0, EFD_CLOEXEC);
	contender_start(&contender);
	wc = export_wc(test);
	contender_finish(&contender);

	ASSERT_TRUE(wc >= 0 || wc == -EBUSY) TH_LOG("%d", wc);
	ASSERT_TRUE(contender.ret >= 0 || contender.ret == -EBUSY) TH_LOG("%ld", contender.ret);
	ASSERT_TRUE(wc < 0 || contender.ret < 0);
	if (memory_types_shown())
		ASSERT_EQ(wc >= 0, nr_wc_types(test));
	if (wc >= 0)
		ASSERT_EQ(0, close(wc));
	if (contender.ret < 0) {
		/* It has not been taken by the one that failed. */
		contender.ret = try_type(test, type, contender.fd);
		ASSERT_LE(0, contender.ret);
	}
	give_back(test, type, contender.ret);
	if (contender.fd >= 0)
		ASSERT_EQ(0, close(contender.fd));
}

/* Who had it gives it back, and as soon as another one has it that is true. */
static void contest_end(struct __test_metadata *_metadata, struct memattr_test *test,
			enum racer_type type)
{
	struct contender contender = {
		.test = test,
		.type = type,
		.fd = export_wc(test),
	};
	void *vaddr = NULL;
	int uc;

	ASSERT_LE(0, contender.fd);
	/* A mapping would keep it after the close. */
	if (type == WC_REVOKE) {
		vaddr = map_shared(test, contender.fd, WC_FIRST);
		ASSERT_TRUE(mmio_try_touch(vaddr));
	}
	contender_start(&contender);
	do {
		uc = export_uc(test);
		ASSERT_TRUE(uc >= 0 || uc == -EBUSY);
	} while (uc < 0);
	if (vaddr)
		ASSERT_FALSE(mmio_try_touch(vaddr));
	EXPECT_EQ(0, nr_wc_types(test));
	contender_finish(&contender);

	ASSERT_EQ(0, contender.ret);
	if (vaddr) {
		ASSERT_EQ(0, close(contender.fd));
		ASSERT_EQ(0, munmap(vaddr, test->page_size));
	}
	ASSERT_EQ(0, close(uc));
}

TEST_F_TIMEOUT(vfio_pci_memattr_contest_test, at_the_same_time, RACE_TIMEOUT)
{
	int round, rounds = race_rounds();

	for (round = 0; round < rounds; round++) {
		if (variant->type == WC_REVOKE || variant->type == WC_CLOSE)
			contest_end(_metadata, &self->test, variant->type);
		else
			contest_grant(_metadata, &self->test, variant->type);
	}
	race_report(variant->name, rounds);
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
