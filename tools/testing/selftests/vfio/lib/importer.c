// SPDX-License-Identifier: GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <sys/ioctl.h>

#include <libvfio.h>

#define MODULE "vfio_dmabuf_importer"

const char *importer_missing(void)
{
	return module_load(MODULE);
}

int importer_open(void)
{
	int importer = open("/dev/" MODULE, O_RDWR | O_CLOEXEC);

	VFIO_ASSERT_GE(importer, 0);
	return importer;
}

void importer_close(int importer)
{
	VFIO_ASSERT_EQ(close(importer), 0);
}

int importer_attach(int importer, int dmabuf, const char *bdf,
		    enum vfio_dmabuf_importer_unmap unmap, u32 delay_ms)
{
	struct vfio_dmabuf_importer_attach args = {
		.dmabuf_fd = dmabuf,
		.unmap = unmap,
		.delay_ms = delay_ms,
	};
	unsigned int segment, bus, device, function;
	int ret;

	ret = sscanf(bdf, "%x:%x:%x.%x", &segment, &bus, &device, &function);
	VFIO_ASSERT_EQ(ret, 4);
	args.segment = segment;
	args.bus = bus;
	args.devfn = device << 3 | function;
	return ioctl(importer, VFIO_DMABUF_IMPORTER_ATTACH, &args) ? -errno : 0;
}

static int importer_ioctl(int importer, unsigned long cmd)
{
	return ioctl(importer, cmd) ? -errno : 0;
}

int importer_detach(int importer)
{
	return importer_ioctl(importer, VFIO_DMABUF_IMPORTER_DETACH);
}

int importer_map(int importer)
{
	return importer_ioctl(importer, VFIO_DMABUF_IMPORTER_MAP);
}

int importer_unmap(int importer)
{
	return importer_ioctl(importer, VFIO_DMABUF_IMPORTER_UNMAP);
}

int importer_add_fence(int importer)
{
	return importer_ioctl(importer, VFIO_DMABUF_IMPORTER_ADD_FENCE);
}

int importer_add_failing_fence(int importer)
{
	return importer_ioctl(importer, VFIO_DMABUF_IMPORTER_ADD_FAILING_FENCE);
}

int importer_signal_fence(int importer)
{
	return importer_ioctl(importer, VFIO_DMABUF_IMPORTER_SIGNAL_FENCE);
}

int importer_lock(int importer)
{
	return importer_ioctl(importer, VFIO_DMABUF_IMPORTER_LOCK);
}

int importer_unlock(int importer)
{
	return importer_ioctl(importer, VFIO_DMABUF_IMPORTER_UNLOCK);
}

static struct vfio_dmabuf_importer_status importer_status(int importer)
{
	struct vfio_dmabuf_importer_status status;

	ioctl_assert(importer, VFIO_DMABUF_IMPORTER_STATUS, &status);
	return status;
}

u64 importer_nr_invalidated(int importer)
{
	return importer_status(importer).nr_invalidated;
}

u64 importer_mapped(int importer)
{
	return importer_status(importer).mapped;
}
