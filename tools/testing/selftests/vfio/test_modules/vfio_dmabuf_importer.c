// SPDX-License-Identifier: GPL-2.0-only
/*
 * An importer of DMABUFs for tests of exporters: it maps, unmaps, adds fences and
 * locks when it is told to, and may be as slow as an exporter has to put up with.
 */
#include <linux/completion.h>
#include <linux/dma-buf.h>
#include <linux/dma-fence.h>
#include <linux/dma-mapping.h>
#include <linux/dma-resv.h>
#include <linux/fs.h>
#include <linux/jiffies.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/scatterlist.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>

#include "vfio_dmabuf_importer.h"

/* Not attached without a @dmabuf; then there is nothing else either. */
struct importer {
	/* One ioctl at a time */
	struct mutex lock;

	struct dma_buf *dmabuf;
	struct dma_buf_attachment *attach;
	struct pci_dev *pdev;
	struct dma_fence *fence;

	/* Written under the lock of the reservation, but for letting go */
	u32 unmap;
	u32 delay_ms;
	unsigned long nr_invalidated;
	unsigned long mapped;
	struct sg_table *sgt;
	struct delayed_work unmap_work;

	/*
	 * The reservation's lock belongs to a task, and no task may return to
	 * userspace with it: a work item has it.
	 */
	bool locking;
	struct work_struct lock_work;
	struct completion locked;
	struct completion unlock;
	struct completion unlocked;
};

/* Some of the work takes as long as the test likes, so none is on a system queue. */
static struct workqueue_struct *importer_wq;

static const char *importer_fence_name(struct dma_fence *fence)
{
	return KBUILD_MODNAME;
}

/* Nothing that has to be there once the fence is signaled, so we can be unloaded. */
static const struct dma_fence_ops importer_fence_ops = {
	.get_driver_name = importer_fence_name,
	.get_timeline_name = importer_fence_name,
};

/* As that of a GPU that hangs */
static long importer_fence_wait(struct dma_fence *fence, bool interruptible,
				long timeout)
{
	return dma_fence_is_signaled(fence) ? timeout : -EDEADLK;
}

/* Looked at also when the fence is signaled, for its wait(): see importer_add_fence(). */
static const struct dma_fence_ops importer_failing_fence_ops = {
	.get_driver_name = importer_fence_name,
	.get_timeline_name = importer_fence_name,
	.wait = importer_fence_wait,
};

static void importer_unmap(struct importer *importer)
{
	dma_resv_assert_held(importer->dmabuf->resv);

	if (!importer->sgt)
		return;

	/*
	 * A test that waits for the exporter must not find it mapped after that. It
	 * may still be mapped for a moment when a test reads 0.
	 */
	WRITE_ONCE(importer->mapped, 0);
	dma_buf_unmap_attachment(importer->attach, importer->sgt,
				 DMA_BIDIRECTIONAL);
	importer->sgt = NULL;
}

static void importer_unmap_work(struct work_struct *work)
{
	struct importer *importer = container_of(to_delayed_work(work),
						 struct importer, unmap_work);

	dma_resv_lock(importer->dmabuf->resv, NULL);
	importer_unmap(importer);
	dma_resv_unlock(importer->dmabuf->resv);
}

static void importer_lock_work(struct work_struct *work)
{
	struct importer *importer = container_of(work, struct importer, lock_work);

	dma_resv_lock(importer->dmabuf->resv, NULL);
	complete_all(&importer->locked);
	/* This is no task that hangs. */
	wait_for_completion_state(&importer->unlock, TASK_IDLE);
	dma_resv_unlock(importer->dmabuf->resv);
	complete_all(&importer->unlocked);
}

static void importer_invalidate(struct dma_buf_attachment *attach)
{
	struct importer *importer = attach->importer_priv;

	WRITE_ONCE(importer->nr_invalidated, importer->nr_invalidated + 1);
	if (READ_ONCE(importer->unmap) == VFIO_DMABUF_IMPORTER_UNMAP_DELAYED)
		queue_delayed_work(importer_wq, &importer->unmap_work,
				   msecs_to_jiffies(READ_ONCE(importer->delay_ms)));
}

static const struct dma_buf_attach_ops importer_attach_ops = {
	.allow_peer2peer = true,
	.invalidate_mappings = importer_invalidate,
};

static int importer_attach(struct importer *importer,
			   const struct vfio_dmabuf_importer_attach *args)
{
	int ret;

	if (importer->dmabuf)
		return -EBUSY;
	if (args->unmap > VFIO_DMABUF_IMPORTER_UNMAP_CLOSE)
		return -EINVAL;

	importer->pdev = pci_get_domain_bus_and_slot(args->segment, args->bus,
						     args->devfn);
	if (!importer->pdev)
		return -ENODEV;

	importer->dmabuf = dma_buf_get(args->dmabuf_fd);
	if (IS_ERR(importer->dmabuf)) {
		ret = PTR_ERR(importer->dmabuf);
		goto err_put_device;
	}

	/* All of it can be used before dma_buf_dynamic_attach() returns. */
	importer->unmap = args->unmap;
	importer->delay_ms = args->delay_ms;
	importer->nr_invalidated = 0;
	importer->attach = dma_buf_dynamic_attach(importer->dmabuf,
						  &importer->pdev->dev,
						  &importer_attach_ops, importer);
	if (IS_ERR(importer->attach)) {
		ret = PTR_ERR(importer->attach);
		goto err_put_dmabuf;
	}
	return 0;

err_put_dmabuf:
	dma_buf_put(importer->dmabuf);
err_put_device:
	importer->dmabuf = NULL;
	pci_dev_put(importer->pdev);
	return ret;
}

/*
 * Whatever somebody may be waiting for. This waits for nobody itself: who waits
 * may have the lock of the reservation, and may wait for another importer first.
 */
static void importer_let_go(struct importer *importer)
{
	if (importer->fence)
		dma_fence_signal(importer->fence);
	if (importer->locking)
		complete_all(&importer->unlock);

	WRITE_ONCE(importer->delay_ms, 0);
	WRITE_ONCE(importer->unmap, VFIO_DMABUF_IMPORTER_UNMAP_DELAYED);
	mod_delayed_work(importer_wq, &importer->unmap_work, 0);
}

static void importer_detach(struct importer *importer)
{
	importer_let_go(importer);
	flush_work(&importer->lock_work);
	importer->locking = false;

	dma_resv_lock(importer->dmabuf->resv, NULL);
	importer_unmap(importer);
	dma_resv_unlock(importer->dmabuf->resv);

	/* The last time that it can be told, and that work is queued */
	dma_buf_detach(importer->dmabuf, importer->attach);
	cancel_delayed_work_sync(&importer->unmap_work);

	dma_fence_put(importer->fence);
	importer->fence = NULL;
	dma_buf_put(importer->dmabuf);
	importer->dmabuf = NULL;
	pci_dev_put(importer->pdev);
}

static int importer_map(struct importer *importer)
{
	struct dma_resv *resv = importer->dmabuf->resv;
	unsigned long mapped = 0;
	struct scatterlist *sg;
	struct sg_table *sgt;
	long ret;
	int i;

	ret = dma_resv_lock_interruptible(resv, NULL);
	if (ret)
		return ret;

	if (importer->sgt) {
		ret = -EBUSY;
		goto out_unlock;
	}

	/* An importer that can be told to unmap has to do this itself. */
	ret = dma_resv_wait_timeout(resv, DMA_RESV_USAGE_KERNEL, true,
				    MAX_SCHEDULE_TIMEOUT);
	if (ret < 0)
		goto out_unlock;

	sgt = dma_buf_map_attachment(importer->attach, DMA_BIDIRECTIONAL);
	if (IS_ERR(sgt)) {
		ret = PTR_ERR(sgt);
		goto out_unlock;
	}

	for_each_sgtable_dma_sg(sgt, sg, i)
		mapped += sg_dma_len(sg);
	importer->sgt = sgt;
	WRITE_ONCE(importer->mapped, mapped);
	ret = 0;

out_unlock:
	dma_resv_unlock(resv);
	return ret;
}

static int importer_unmap_ioctl(struct importer *importer)
{
	struct dma_resv *resv = importer->dmabuf->resv;
	int ret;

	if (importer->unmap == VFIO_DMABUF_IMPORTER_UNMAP_CLOSE)
		return -EPERM;

	ret = dma_resv_lock_interruptible(resv, NULL);
	if (ret)
		return ret;

	if (importer->sgt)
		importer_unmap(importer);
	else
		ret = -EINVAL;
	dma_resv_unlock(resv);
	return ret;
}

static int importer_add_fence(struct importer *importer,
			      const struct dma_fence_ops *ops)
{
	struct dma_resv *resv = importer->dmabuf->resv;
	struct dma_fence *fence;
	int ret;

	if (importer->fence)
		return -EBUSY;

	fence = kzalloc_obj(*fence);
	if (!fence)
		return -ENOMEM;
	dma_fence_init(fence, ops, NULL, dma_fence_context_alloc(1), 1);
	/* The fence may be there for longer than anything that could give it back. */
	if (ops->wait)
		__module_get(THIS_MODULE);

	ret = dma_resv_lock_interruptible(resv, NULL);
	if (ret)
		goto err_put_fence;
	ret = dma_resv_reserve_fences(resv, 1);
	if (!ret)
		dma_resv_add_fence(resv, fence, DMA_RESV_USAGE_BOOKKEEP);
	dma_resv_unlock(resv);
	if (ret)
		goto err_put_fence;

	importer->fence = fence;
	return 0;

err_put_fence:
	dma_fence_put(fence);
	return ret;
}

static int importer_signal_fence(struct importer *importer)
{
	if (!importer->fence)
		return -EINVAL;

	dma_fence_signal(importer->fence);
	dma_fence_put(importer->fence);
	importer->fence = NULL;
	return 0;
}

static int importer_lock(struct importer *importer)
{
	if (importer->locking)
		return -EBUSY;

	importer->locking = true;
	reinit_completion(&importer->locked);
	reinit_completion(&importer->unlock);
	reinit_completion(&importer->unlocked);
	queue_work(importer_wq, &importer->lock_work);

	/* If this ends early it may be locked later, until it is unlocked. */
	if (wait_for_completion_interruptible(&importer->locked))
		return -EINTR;
	return 0;
}

static int importer_unlock(struct importer *importer)
{
	int ret;

	if (!importer->locking)
		return -EINVAL;

	complete_all(&importer->unlock);
	ret = wait_for_completion_interruptible(&importer->unlocked);
	if (!ret)
		importer->locking = false;
	return ret;
}

static int importer_status(struct importer *importer, void __user *arg)
{
	struct vfio_dmabuf_importer_status status = {
		.nr_invalidated = READ_ONCE(importer->nr_invalidated),
		.mapped = READ_ONCE(importer->mapped),
	};

	return copy_to_user(arg, &status, sizeof(status)) ? -EFAULT : 0;
}

static long importer_ioctl_locked(struct importer *importer, unsigned int cmd,
				  void __user *arg)
{
	struct vfio_dmabuf_importer_attach attach;

	if (cmd == VFIO_DMABUF_IMPORTER_ATTACH) {
		if (copy_from_user(&attach, arg, sizeof(attach)))
			return -EFAULT;
		return importer_attach(importer, &attach);
	}

	if (!importer->dmabuf)
		return -EINVAL;

	switch (cmd) {
	case VFIO_DMABUF_IMPORTER_DETACH:
		importer_detach(importer);
		return 0;
	case VFIO_DMABUF_IMPORTER_MAP:
		return importer_map(importer);
	case VFIO_DMABUF_IMPORTER_UNMAP:
		return importer_unmap_ioctl(importer);
	case VFIO_DMABUF_IMPORTER_ADD_FENCE:
		return importer_add_fence(importer, &importer_fence_ops);
	case VFIO_DMABUF_IMPORTER_ADD_FAILING_FENCE:
		return importer_add_fence(importer, &importer_failing_fence_ops);
	case VFIO_DMABUF_IMPORTER_SIGNAL_FENCE:
		return importer_signal_fence(importer);
	case VFIO_DMABUF_IMPORTER_LOCK:
		return importer_lock(importer);
	case VFIO_DMABUF_IMPORTER_UNLOCK:
		return importer_unlock(importer);
	case VFIO_DMABUF_IMPORTER_STATUS:
		return importer_status(importer, arg);
	default:
		return -ENOTTY;
	}
}

static long importer_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct importer *importer = file->private_data;
	long ret;

	ret = mutex_lock_interruptible(&importer->lock);
	if (ret)
		return ret;
	ret = importer_ioctl_locked(importer, cmd, (void __user *)arg);
	mutex_unlock(&importer->lock);
	return ret;
}

static int importer_open(struct inode *inode, struct file *file)
{
	struct importer *importer;

	importer = kzalloc_obj(*importer);
	if (!importer)
		return -ENOMEM;

	mutex_init(&importer->lock);
	INIT_DELAYED_WORK(&importer->unmap_work, importer_unmap_work);
	INIT_WORK(&importer->lock_work, importer_lock_work);
	init_completion(&importer->locked);
	init_completion(&importer->unlock);
	init_completion(&importer->unlocked);
	file->private_data = importer;
	return nonseekable_open(inode, file);
}

/*
 * A process that exits closes all of its files before the first is released. A
 * release of the exporter may come first, and wait for us. So let go here, but
 * only if this is the last file descriptor: others may be of another process.
 */
static int importer_flush(struct file *file, fl_owner_t id)
{
	struct importer *importer = file->private_data;

	if (file_count(file) == 1 && importer->dmabuf)
		importer_let_go(importer);
	return 0;
}

static int importer_release(struct inode *inode, struct file *file)
{
	struct importer *importer = file->private_data;

	if (importer->dmabuf)
		importer_detach(importer);
	mutex_destroy(&importer->lock);
	kfree(importer);
	return 0;
}

static const struct file_operations importer_fops = {
	.owner = THIS_MODULE,
	.open = importer_open,
	.flush = importer_flush,
	.release = importer_release,
	.unlocked_ioctl = importer_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice importer_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = KBUILD_MODNAME,
	.fops = &importer_fops,
	.mode = 0600,
};

static int __init importer_init(void)
{
	int ret;

	importer_wq = alloc_workqueue(KBUILD_MODNAME, WQ_UNBOUND, 0);
	if (!importer_wq)
		return -ENOMEM;

	ret = misc_register(&importer_device);
	if (ret)
		destroy_workqueue(importer_wq);
	return ret;
}
module_init(importer_init);

static void __exit importer_exit(void)
{
	misc_deregister(&importer_device);
	destroy_workqueue(importer_wq);
}
module_exit(importer_exit);

MODULE_IMPORT_NS("DMA_BUF");
MODULE_DESCRIPTION("Importer of DMABUFs for the tests of VFIO");
MODULE_LICENSE("GPL");
