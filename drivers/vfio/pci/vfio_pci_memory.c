// SPDX-License-Identifier: GPL-2.0-only
/*
 * Whether the memory of a device can be reached, and what happens to those who
 * have a piece of it when that changes.
 *
 * Whatever makes the memory go away for a while is put between
 *
 *	down_write(&vdev->memory_lock);
 *	vfio_pci_memory_revoke(vdev);
 *	...
 *	vfio_pci_memory_restore(vdev);
 *	up_write(&vdev->memory_lock);
 *
 * and the last close revokes it for good. vfio_pci_dma_buf_revoke() does that for
 * a single buffer, and neither needs nor takes memory_lock. A page fault comes without
 * memory_lock, see vfio_pci_dma_buf.lock for how both exclude each other.
 */
#include <linux/dma-resv.h>
#include <linux/ktime.h>
#include <linux/lockdep.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/wait_bit.h>

#include "vfio_pci_dmabuf.h"
#include "vfio_pci_priv.h"

#define CREATE_TRACE_POINTS
#include "vfio_pci_trace.h"

/* The time, if somebody wants to know how long something takes */
static u64 vfio_pci_trace_clock(bool enabled)
{
	return enabled ? ktime_get_ns() : 0;
}

/* What is behind a buffer that was revoked for good */
static const struct vfio_pci_memory vfio_pci_memory_revoked = {
	.state = VFIO_PCI_MEMORY_REVOKED,
};

static void vfio_pci_memory_init(struct vfio_pci_memory *memory,
				 struct pci_dev *pdev)
{
	kref_init(&memory->kref);
	memory->state = VFIO_PCI_MEMORY_DISABLED;
	memory->pdev = pdev;
	spin_lock_init(&memory->lock);
	INIT_LIST_HEAD(&memory->buffers[0]);
	INIT_LIST_HEAD(&memory->buffers[1]);
	mutex_init(&memory->attr_lock);
	memory->wc_ranges = RB_ROOT_CACHED;
	memory->nr_wc_ranges = 0;
}

static void vfio_pci_memory_free(struct kref *kref)
{
	struct vfio_pci_memory *memory = container_of(kref, struct vfio_pci_memory, kref);

	mutex_destroy(&memory->attr_lock);
	kfree(memory);
}

void vfio_pci_dma_buf_put(struct vfio_pci_dma_buf *priv)
{
	if (refcount_dec_and_test(&priv->users))
		complete(&priv->unused);
}

/*
 * The buffer behind @prev, of which a reference is dropped, or the first one. A
 * buffer whose release has begun is skipped; the others are not released while
 * they are visited, and stay on the list.
 */
struct vfio_pci_dma_buf *vfio_pci_memory_next(struct vfio_pci_memory *memory,
					      struct vfio_pci_dma_buf *prev)
{
	struct vfio_pci_dma_buf *priv = prev, *next = NULL;
	struct list_head *buffers;

	buffers = &memory->buffers[prev && prev->write_combine];
	scoped_guard(spinlock, &memory->lock) {
		for (;;) {
			priv = list_prepare_entry(priv, buffers, memory_elm);
			list_for_each_entry_continue(priv, buffers, memory_elm) {
				if (refcount_inc_not_zero(&priv->users)) {
					next = priv;
					break;
				}
			}
			if (next || buffers != memory->buffers)
				break;
			priv = NULL;
			buffers++;
		}
	}
	if (prev)
		vfio_pci_dma_buf_put(prev);
	return next;
}

/**
 * vfio_pci_memory_add() - Put a buffer on the list of its device
 * @vdev: The device, open
 * @priv: The buffer, whose DMABUF nobody else knows yet
 *
 * From here on the state of @vdev's memory is the one of the buffer, until it is
 * revoked, so this needs no memory_lock: a walk that is under way has changed the
 * state before it began, and nobody has mapped this buffer under the old one.
 *
 * If this fails the caller is to drop the DMABUF. If it does not, nothing may fail
 * any more.
 *
 * Return: 0, or -EBUSY for an uncached buffer of which a page is write-combined.
 */
int vfio_pci_memory_add(struct vfio_pci_core_device *vdev,
			struct vfio_pci_dma_buf *priv)
{
	struct vfio_pci_memory *memory = vdev->memory;

	kref_get(&memory->kref);
	priv->memory = memory;
	priv->source = memory;
	scoped_guard(spinlock, &memory->lock) {
		if (unlikely(priv->write_combine)) {
			list_add(&priv->memory_elm, &memory->buffers[1]);
			return 0;
		}
		list_add(&priv->memory_elm, &memory->buffers[0]);
		if (likely(RB_EMPTY_ROOT(&memory->wc_ranges.rb_root)))
			return 0;
	}
	if (!vfio_pci_memattr_overlaps(memory, priv, NULL))
		return 0;

	/* It is in nobody's way until it is released. */
	vfio_pci_memattr_release(memory, priv);
	return -EBUSY;
}

/**
 * vfio_pci_memory_remove() - Take a buffer off the list, for its release
 * @priv: The buffer
 *
 * Returns when no walker uses the buffer. Nobody has it mapped any more, so that a
 * walker can at most wait for fences.
 */
void vfio_pci_memory_remove(struct vfio_pci_dma_buf *priv)
{
	struct vfio_pci_memory *memory = priv->memory;

	if (!refcount_dec_and_test(&priv->users))
		wait_for_completion(&priv->unused);

	scoped_guard(spinlock, &memory->lock)
		list_del(&priv->memory_elm);
	kref_put(&memory->kref, vfio_pci_memory_free);
}

/**
 * vfio_pci_memory_wait() - Wait for the end of VFIO_PCI_MEMORY_CHANGING
 * @memory: The memory of a device
 * @interruptible: Whether signals end it that do not kill
 *
 * Return: 0, or -ERESTARTSYS for a signal.
 */
int vfio_pci_memory_wait(struct vfio_pci_memory *memory, bool interruptible)
{
	if (interruptible)
		return wait_var_event_interruptible(&memory->state,
			READ_ONCE(memory->state) != VFIO_PCI_MEMORY_CHANGING);
	return wait_var_event_killable(&memory->state,
			READ_ONCE(memory->state) != VFIO_PCI_MEMORY_CHANGING);
}

static bool vfio_pci_dma_buf_unmapped(struct vfio_pci_dma_buf *priv)
{
	return !atomic_read_acquire(&priv->nr_mapped);
}

/*
 * Have importers unmap the buffer, and wait until they have, and until the work
 * that they had for it is done. Fails with -EINTR for a signal if @interruptible,
 * which ends all waits but those in an importer's invalidate_mappings(), and with
 * the error of a fence that cannot tell when its work is done. Can be called again
 * then.
 */
static int __vfio_pci_dma_buf_drain(struct vfio_pci_dma_buf *priv,
				    bool interruptible)
{
	struct dma_resv *resv = priv->dmabuf->resv;
	long ret = 0;

	/*
	 * Acquire, as vfio_pci_dma_buf_revoke() comes without memory_lock: a caller
	 * that finds it false must find the mappings of importers gone, too.
	 */
	if (smp_load_acquire(&priv->imported)) {
		if (!interruptible)
			dma_resv_lock(resv, NULL);
		else if (dma_resv_lock_interruptible(resv, NULL))
			return -EINTR;

		dma_buf_invalidate_mappings(priv->dmabuf);
		/*
		 * Whoever has the fd can add fences, which say nothing about this
		 * memory unless an importer had addresses of it for its work.
		 */
		if (priv->fenced)
			ret = dma_resv_wait_timeout(resv,
						    DMA_RESV_USAGE_BOOKKEEP,
						    interruptible,
						    MAX_SCHEDULE_TIMEOUT);
		if (ret >= 0) {
			priv->fenced = false;
			/* Pairs with the acquire above. */
			smp_store_release(&priv->imported, false);
		}
		dma_resv_unlock(resv);
		if (ret < 0 && interruptible && signal_pending(current))
			return -EINTR;
	}

	/*
	 * iommufd is not counted: it has unmapped when invalidate_mappings()
	 * returns. Another revoke may have told importers, and be here, too.
	 */
	if (!interruptible)
		wait_var_event(&priv->nr_mapped, vfio_pci_dma_buf_unmapped(priv));
	else if (wait_var_event_interruptible(&priv->nr_mapped,
					      vfio_pci_dma_buf_unmapped(priv)))
		return -EINTR;

	return ret < 0 ? ret : 0;
}

static int vfio_pci_dma_buf_drain(struct vfio_pci_dma_buf *priv,
				  bool interruptible)
{
	bool trace = trace_vfio_pci_dma_buf_drained_enabled();
	u64 start;
	int ret;

	/* Most buffers have no importer, and nothing to tell. */
	if (!READ_ONCE(priv->imported) && vfio_pci_dma_buf_unmapped(priv))
		return __vfio_pci_dma_buf_drain(priv, interruptible);

	/* An importer may never unmap: which buffer it is must be known before. */
	trace_vfio_pci_dma_buf_drain(priv);
	start = vfio_pci_trace_clock(trace);
	ret = __vfio_pci_dma_buf_drain(priv, interruptible);
	if (trace)
		trace_vfio_pci_dma_buf_drained(priv, ktime_get_ns() - start, ret);
	return ret;
}

/**
 * vfio_pci_dma_buf_revoke() - Take one buffer back for good
 * @vdev: The device, open
 * @priv: A buffer that was exported from some device
 *
 * The CPU's access ends before importers are told, and no other buffer notices:
 * of the locks of the device this takes attr_lock at most, see vfio_pci_memattr.c.
 *
 * Return: 0, -ENODEV if it was exported from another device, or before @vdev was
 * opened, -EINTR for a signal while it waited for an importer, the error of a
 * fence, -EBADFD if the buffer was revoked before and no importer uses it any more.
 */
int vfio_pci_dma_buf_revoke(struct vfio_pci_core_device *vdev,
			    struct vfio_pci_dma_buf *priv)
{
	bool trace = trace_vfio_pci_dma_buf_revoke_enabled();
	bool revoked;
	u64 start;
	int ret;

	if (priv->memory != vdev->memory)
		return -ENODEV;

	start = vfio_pci_trace_clock(trace);
	scoped_guard(rwsem_write, &priv->lock) {
		revoked = priv->source == &vfio_pci_memory_revoked;
		priv->source = &vfio_pci_memory_revoked;
	}
	vfio_pci_dma_buf_zap(priv);
	if (trace) {
		u64 zap_ns = ktime_get_ns() - start;

		trace_vfio_pci_dma_buf_revoke(priv, revoked,
					      vfio_pci_dma_buf_nr_vmas(priv), zap_ns);
	}
	vfio_pci_memattr_release(priv->memory, priv);

	ret = vfio_pci_dma_buf_drain(priv, true);
	if (ret)
		return ret;
	return revoked ? -EBADFD : 0;
}

static void __vfio_pci_memory_revoke(struct vfio_pci_core_device *vdev,
				     enum vfio_pci_memory_state state)
{
	bool trace = trace_vfio_pci_memory_revoke_enabled();
	u64 start, zap_ns = 0, nr_buffers = 0, nr_vmas = 0;
	struct vfio_pci_memory *memory = vdev->memory;
	struct vfio_pci_dma_buf *priv;

	lockdep_assert_held_write(&vdev->memory_lock);

	/* For all buffers at once, none stays open while another is waited for. */
	WRITE_ONCE(memory->state, state);

	vfio_pci_memory_for_each(priv, memory) {
		start = vfio_pci_trace_clock(trace);
		/* Mappings made under the old state are complete after this. */
		down_write(&priv->lock);
		up_write(&priv->lock);
		vfio_pci_dma_buf_zap(priv);
		if (trace) {
			zap_ns += ktime_get_ns() - start;
			nr_vmas += vfio_pci_dma_buf_nr_vmas(priv);
			nr_buffers++;
		}
		if (state == VFIO_PCI_MEMORY_REVOKED)
			vfio_pci_memattr_release(memory, priv);
	}

	/* A driver with its own mmap() may have VMAs of the device's file. */
	start = vfio_pci_trace_clock(trace);
	if (vdev->own_mmap)
		vfio_pci_zap_bars(vdev);
	if (trace)
		trace_vfio_pci_memory_revoke(memory, state == VFIO_PCI_MEMORY_REVOKED,
					     nr_buffers, nr_vmas,
					     zap_ns + ktime_get_ns() - start);

	vfio_pci_memory_for_each(priv, memory)
		vfio_pci_dma_buf_drain(priv, false);
}

/**
 * vfio_pci_memory_revoke() - Take the memory of a device away from everybody
 * @vdev: The device, its memory_lock held for writing
 *
 * For the time of a reset, or of any other change after which the memory may not
 * be reachable. When this returns no process has a page of it mapped and no
 * importer uses it. vfio_pci_memory_restore() must follow under the same
 * memory_lock: page faults wait for it.
 */
void vfio_pci_memory_revoke(struct vfio_pci_core_device *vdev)
{
	/* A neighbour in a hot reset need not be open. */
	if (vdev->memory)
		__vfio_pci_memory_revoke(vdev, VFIO_PCI_MEMORY_CHANGING);
}

/**
 * vfio_pci_memory_restore() - Give the memory back, if it can be reached
 * @vdev: The device, its memory_lock held for writing
 *
 * To be called at the end of whatever may have changed that, also where it has
 * failed: what counts is the state of the device. This waits for nobody.
 */
void vfio_pci_memory_restore(struct vfio_pci_core_device *vdev)
{
	struct vfio_pci_memory *memory = vdev->memory;
	enum vfio_pci_memory_state state = VFIO_PCI_MEMORY_DISABLED;

	lockdep_assert_held_write(&vdev->memory_lock);

	/* vconfig is only valid while the device is open. */
	if (!memory)
		return;

	if (!vdev->pm_runtime_engaged && vfio_pci_memory_decoded(vdev))
		state = VFIO_PCI_MEMORY_ENABLED;

	/* Most writes of the command register change nothing. */
	if (memory->state != state)
		trace_vfio_pci_memory_restore(memory,
					      state == VFIO_PCI_MEMORY_ENABLED &&
					      !vfio_pci_in_d3(vdev->pdev));
	store_release_wake_up(&memory->state, state);
}

/**
 * vfio_pci_memory_open() - The device is being opened
 * @vdev: The device
 *
 * The memory is disabled until the first vfio_pci_memory_restore().
 *
 * Return: 0 or -ENOMEM.
 */
int vfio_pci_memory_open(struct vfio_pci_core_device *vdev)
{
	struct vfio_pci_memory *memory;

	memory = kmalloc_obj(*memory, GFP_KERNEL_ACCOUNT);
	if (!memory)
		return -ENOMEM;
	vfio_pci_memory_init(memory, vdev->pdev);
	strscpy(memory->name, pci_name(vdev->pdev));

	guard(rwsem_write)(&vdev->memory_lock);
	/* Drivers must be free to copy from user memory under memory_lock. */
	if (!vdev->own_mmap && current->mm)
		might_lock_read(&current->mm->mmap_lock);
	vdev->memory = memory;
	return 0;
}

/**
 * vfio_pci_memory_close() - The last close: revoke the memory for good
 * @vdev: The device
 *
 * Buffers that are left keep struct vfio_pci_memory, and nothing of the device.
 */
void vfio_pci_memory_close(struct vfio_pci_core_device *vdev)
{
	struct vfio_pci_memory *memory = vdev->memory;

	guard(rwsem_write)(&vdev->memory_lock);
	__vfio_pci_memory_revoke(vdev, VFIO_PCI_MEMORY_REVOKED);
	vdev->memory = NULL;
	kref_put(&memory->kref, vfio_pci_memory_free);
}

/*
 * All memory_locks are of one class for lockdep, the one that is primed below.
 * But for a driver with its own mmap(): nvgrace-gpu takes memory_lock in page
 * faults, which must not make lockdep complain about all other drivers.
 */
void vfio_pci_init_locks(struct vfio_pci_core_device *vdev)
{
	static struct lock_class_key own_mmap_key;
	int bar;

	mutex_init(&vdev->ioeventfds_lock);
	for (bar = 0; bar < PCI_STD_NUM_BARS; bar++)
		init_rwsem(&vdev->barmap_lock[bar]);
	init_rwsem(&vdev->memory_lock);
	if (vdev->own_mmap)
		lockdep_set_class(&vdev->memory_lock, &own_mmap_key);
}

#if IS_ENABLED(CONFIG_LOCKDEP)
/*
 * Tell lockdep the order of vfio_pci_dmabuf.h, so that it reports the first
 * violation, and not only an actual inversion. dma_resv_lockdep() has what comes
 * before dmabuf->resv, dma_buf_init() has dmabuf_list_mutex, and
 * vfio_pci_memory_open() has mmap_lock, as there is no mm here.
 */
void __init vfio_pci_memory_lockdep(void)
{
	struct vfio_pci_core_device *vdev __free(kfree) = kzalloc_obj(*vdev);
	struct vfio_pci_dma_buf *priv __free(kvfree) = vfio_pci_dma_buf_alloc(1, false);
	struct vfio_pci_memory memory;
	struct address_space mapping;
	struct dma_resv resv;

	if (!vdev || !priv)
		return;

	vfio_pci_init_locks(vdev);
	vfio_pci_memory_init(&memory, NULL);
	address_space_init_once(&mapping);
	dma_resv_init(&resv);

	mutex_lock(&vdev->ioeventfds_lock);
	mutex_lock(&memory.attr_lock);
	mutex_unlock(&memory.attr_lock);
	mutex_unlock(&vdev->ioeventfds_lock);

	down_read(&vdev->barmap_lock[0]);
	down_write(&vdev->memory_lock);

	/* The zap */
	i_mmap_lock_read(&mapping);
	i_mmap_unlock_read(&mapping);

	mutex_lock(&memory.attr_lock);
	fs_reclaim_acquire(GFP_KERNEL);
	fs_reclaim_release(GFP_KERNEL);
	spin_lock(&memory.lock);
	spin_unlock(&memory.lock);
	mutex_unlock(&memory.attr_lock);

	dma_resv_lock(&resv, NULL);
	down_write(&priv->lock);
	up_write(&priv->lock);
	dma_resv_unlock(&resv);

	up_write(&vdev->memory_lock);
	up_read(&vdev->barmap_lock[0]);

	/* vmf_insert_pfn() may allocate, though vmf_alloc_pte() has before it. */
	down_read(&priv->lock);
	fs_reclaim_acquire(GFP_KERNEL);
	fs_reclaim_release(GFP_KERNEL);
	up_read(&priv->lock);

	dma_resv_fini(&resv);
	mutex_destroy(&memory.attr_lock);
	mutex_destroy(&vdev->ioeventfds_lock);
}
#endif
